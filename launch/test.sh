#!/usr/bin/env bash
# Runs the test suite in .venv; arguments are passed to pytest, e.g. tests/models -k padding.
set -euo pipefail
source "$(dirname "$0")/environment.sh" requirements-test.txt

python -m pytest -n 2 "$@"
