# Makes .venv in the root of the repository and activates it. The other scripts source this file.
# Variables: ENVIRONMENT is the directory (default: .venv), REQUIREMENTS is the file of packages to
# install (default: requirements.txt), and EXTRA_REQUIREMENTS is a second such file.
# If the files have not changed since the last call, nothing is installed.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: $python is $("$python" --version 2>&1 | head -n 1); accepted: Python 3.11 or newer (set PYTHON=)" >&2
  exit 2
fi
environment=${ENVIRONMENT:-.venv}
if [ ! -x "$environment/bin/python" ]; then
  "$python" -m venv "$environment"
fi
source "$environment/bin/activate"

requirements=("${REQUIREMENTS:-requirements.txt}" ${EXTRA_REQUIREMENTS:+"$EXTRA_REQUIREMENTS"})
# The environment keeps a copy of each file that was installed last.
unchanged() {
  local file
  for file in setup.py "${requirements[@]}"; do
    cmp -s "$file" "$environment/installed-$(basename "$file")" || return
  done
}
if ! unchanged; then
  echo "installing $(printf '%s ' "${requirements[@]}")into $environment (some minutes the first time)"
  python -m pip install --quiet --disable-pip-version-check "${requirements[@]/#/--requirement=}"
  python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  for file in setup.py "${requirements[@]}"; do
    cp "$file" "$environment/installed-$(basename "$file")"
  done
fi
