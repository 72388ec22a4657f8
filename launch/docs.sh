#!/usr/bin/env bash
# Builds the documentation as a site of static pages in site/; open site/index.html. The first time,
# it makes .venv-docs. A link that leads nowhere ends the build.
#   bash launch/docs.sh
#   bash launch/docs.sh --check    also opens each page in headless Chromium
set -euo pipefail
ENVIRONMENT=.venv-docs
REQUIREMENTS=requirements-docs.txt
source "$(dirname "$0")/environment.sh"
python docs/site/pages.py build/pages
zensical build --clean --strict
if [ "${1:-}" = --check ]; then
  python docs/site/check.py site
fi
