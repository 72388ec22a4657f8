#!/usr/bin/env bash
# Measures everything on docs/performance.md and writes its record, tables and figures: under 25
# minutes on two cores, in .venv-reference, which has torch and transformers. Nothing else may run on
# the machine meanwhile. After an interruption, the same command of the same commit goes on.
# Arguments are passed to benchmarks/performance.py, e.g. --small or --only=growth,variants.
set -euo pipefail
ENVIRONMENT=.venv-reference
EXTRA_REQUIREMENTS=requirements-reference.txt
source "$(dirname "$0")/environment.sh"
python benchmarks/performance.py "$@"
