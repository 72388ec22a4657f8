#!/usr/bin/env bash
# Runs the test suite in .venv; arguments are passed to pytest, e.g. tests/models -k padding.
#   bash launch/test.sh --reference    tests/reference instead, in .venv-reference: bert_jax beside
#                                      the implementations that it is compared with
#   bash launch/test.sh --beam         the tests of engines and preparation, in .venv-beam, which has
#                                      Apache Beam and no jax
set -euo pipefail
if [ "${1:-}" = --reference ]; then
  shift
  ENVIRONMENT=.venv-reference
  EXTRA_REQUIREMENTS=requirements-reference.txt
  source "$(dirname "$0")/environment.sh"
  python tests/reference/download.py
  python -m pytest -o testpaths=tests/reference "$@"
elif [ "${1:-}" = --beam ]; then
  shift
  ENVIRONMENT=.venv-beam
  REQUIREMENTS=requirements-beam.txt
  source "$(dirname "$0")/environment.sh"
  # tests/conftest.py needs jax.
  python -m pytest --noconftest tests/data/test_engines.py tests/data/test_preparation.py "$@"
else
  EXTRA_REQUIREMENTS=requirements-test.txt
  source "$(dirname "$0")/environment.sh"
  # A file on one process: what its tests share is made and compiled once.
  python -m pytest -n 2 --dist loadfile "$@"
fi
