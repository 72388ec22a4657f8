#!/usr/bin/env bash
# Runs the test suite in .venv; arguments are passed to pytest, e.g. tests/models -k padding.
#   bash launch/test.sh --reference    tests/reference instead, in .venv-reference: bert_jax beside
#                                      the implementations that it is compared with
set -euo pipefail
if [ "${1:-}" = --reference ]; then
  shift
  ENVIRONMENT=.venv-reference
  EXTRA_REQUIREMENTS=requirements-reference.txt
  source "$(dirname "$0")/environment.sh"
  python tests/reference/download.py
  python -m pytest -o testpaths=tests/reference "$@"
else
  EXTRA_REQUIREMENTS=requirements-test.txt
  source "$(dirname "$0")/environment.sh"
  python -m pytest -n 2 "$@"
fi
