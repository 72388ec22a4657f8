#!/usr/bin/env bash
# Pretrains on the GPUs of this machine, or of several machines without a scheduler.
#   bash launch/gpu_node.sh                                     one machine
#   COORDINATOR=10.0.0.1:9876 COUNT=2 INDEX=0 bash launch/gpu_node.sh    on the first of two
#   COORDINATOR=10.0.0.1:9876 COUNT=2 INDEX=1 bash launch/gpu_node.sh    on the second
# Edit three places. The same command resumes from the last checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."

# ---- 1. Where bert_jax is installed with pip install -e '.[cuda13]' ---------------------------------
source .venv/bin/activate

# ---- 2. What to train, and its workdir; several machines need storage that all share ----------------
experiment=experiments/bert.py:base
workdir=runs/base

# ---- 3. How to use the devices ------------------------------------------------------------------------
mesh=(--set mesh.data=-1 --set mesh.fsdp=1 --set mesh.tensor=1)

several=()
if [ -n "${COORDINATOR:-}" ]; then
  several=(--coordinator="$COORDINATOR" --process_count="$COUNT" --process_index="$INDEX")
fi
trap 'exit 75' INT # after Ctrl-C, the run saves its step, and this script does not start it again
for _ in {0..100}; do
  status=0
  python -m bert_jax.pretrain --experiment="$experiment" --workdir="$workdir" \
    "${mesh[@]}" "${several[@]}" || status=$?
  case "$status" in
    0 | 1 | 2) break ;; # finished, or an error that would come again
  esac # a signal, a stall, or a process that was lost or killed: start it again
done
exit "$status"
