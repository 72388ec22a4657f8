#!/usr/bin/env bash
# Runs the tests in .venv. Arguments are passed to pytest, e.g. tests/models -k padding.
#   bash launch/test.sh                the default suite: about 9 minutes on two cores
#   bash launch/test.sh --slow         the tests that are marked slow: about 22 minutes
#   bash launch/test.sh --faults       all tests in tests/faults and tests/fuzz, with 30 kills of each
#                                      command and a long run of 5,000 updates: about half an hour
#   bash launch/test.sh --newest       tests of the model, training and meshes, in .venv-3.12: Python
#                                      3.12 with the newest tested jax; at most 4 minutes
#   bash launch/test.sh --reference    tests/reference, in .venv-reference: compares bert_jax with
#                                      other implementations
#   bash launch/test.sh --beam         the tests of engines and preparation, in .venv-beam, which
#                                      has Apache Beam and no jax
set -euo pipefail
suite=${1:-}
case "$suite" in
  --newest)
    shift
    ENVIRONMENT=.venv-3.12
    PYTHON=${PYTHON:-python3.12}
    EXTRA_REQUIREMENTS=requirements-test.txt
    source "$(dirname "$0")/environment.sh"
    python -m pytest -n 2 --dist loadfile \
      tests/models tests/test_{sharded,update_program,resume,cpu}.py \
      tests/training/test_{step,sharding,train,checkpoint,losses_and_metrics,optim}.py "$@"
    ;;
  --reference)
    shift
    ENVIRONMENT=.venv-reference
    EXTRA_REQUIREMENTS=requirements-reference.txt
    source "$(dirname "$0")/environment.sh"
    python tests/reference/download.py
    python -m pytest -n 2 --dist loadfile -o testpaths=tests/reference "$@"
    ;;
  --beam)
    shift
    ENVIRONMENT=.venv-beam
    REQUIREMENTS=requirements-beam.txt
    source "$(dirname "$0")/environment.sh"
    # tests/conftest.py needs jax.
    python -m pytest --noconftest tests/data/test_engines.py tests/data/test_preparation.py "$@"
    ;;
  *)
    if [ "$suite" = --slow ]; then
      shift
      set -- -m slow "$@"
    elif [ "$suite" = --faults ]; then
      shift
      set -- -m "slow or long or not slow" --kills=30 --soak_steps=5000 tests/faults tests/fuzz "$@"
    fi
    EXTRA_REQUIREMENTS=requirements-test.txt
    source "$(dirname "$0")/environment.sh"
    # All tests of a file run in one process, so its fixtures are made and compiled once. Files run
    # in the order of their names: xdist would run files with a single long test at the end, when
    # the other process has nothing left to do.
    python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
    ;;
esac
