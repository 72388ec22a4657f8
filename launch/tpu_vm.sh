#!/usr/bin/env bash
# Pretrains on a Cloud TPU slice. It runs the same command on every host of the slice.
#   bash launch/tpu_vm.sh
# Edit three places. The same command resumes from the last checkpoint.
set -euo pipefail

# ---- 1. Which slice (gcloud compute tpus tpu-vm create ...) -----------------------------------------
name=bert-jax
zone=us-central2-b

# ---- 2. Where the repository is on every host, installed with pip install -e '.[tpu]' -------------
directory=bert_jax

# ---- 3. What to train, its workdir and data, on storage that all hosts share ------------------------
experiment=experiments/bert.py:base
workdir=/mnt/shared/runs/base
data=/mnt/shared/data/wikibooks

# With --cluster, jax finds the other hosts from the metadata of the slice.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  cd $directory && source .venv/bin/activate &&
  python -m bert_jax.pretrain --experiment=$experiment --workdir=$workdir --cluster \
    --set data.directory=$data"
