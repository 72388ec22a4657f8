#!/usr/bin/env bash
# Pretrains on the GPUs of this machine.
#   bash launch/gpu_node.sh --experiment=experiments/bert.py:base --workdir=runs/base
#
# On several machines without a scheduler, run it once on each, with storage that all share:
#   bash launch/gpu_node.sh --coordinator=10.0.0.1:9876 --process_count=2 --process_index=0 ...
#   bash launch/gpu_node.sh --coordinator=10.0.0.1:9876 --process_count=2 --process_index=1 ...
#
# The arguments are passed to bert_jax.pretrain. The script uses the virtual environment that is
# active; by default, it uses .venv (python -m venv .venv; pip install -e '.[cuda13]'). The same
# command resumes from the last checkpoint. launch/restart.sh starts the run again after a crash, and
# passes signals on to it.
set -euo pipefail
if [ "${1:-}" = --help ]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exit
fi
cd "$(dirname "$0")/.."
source "${VIRTUAL_ENV:-.venv}/bin/activate"
exec bash launch/restart.sh python -m bert_jax.pretrain "$@"
