#!/usr/bin/env bash
# Runs the test suite in .venv; arguments are passed to pytest, e.g. tests/models -k padding.
set -euo pipefail
EXTRA_REQUIREMENTS=requirements-test.txt
source "$(dirname "$0")/environment.sh"

python -m pytest -n 2 "$@"
