#!/usr/bin/env bash
# Pretrains on a Cloud TPU slice. It runs the same command on every host of the slice.
#   TPU=NAME ZONE=us-west4-a bash launch/tpu_vm.sh \
#     --experiment=experiments/bert.py:base --workdir=gs://BUCKET/runs/base
#   TPU=NAME ZONE=us-west4-a bash launch/tpu_vm.sh --stop     saves the state and ends the run
#
# The arguments are passed to bert_jax.pretrain. TPU and ZONE are the name and the zone of the slice.
# DIRECTORY is the clone of bert_jax on every host (default: bert_jax), with the environment .venv
# (python3 -m venv .venv; pip install -e '.[tpu,gcs]'). All hosts must see the same workdir and data.
#
# On every host, the run does not depend on the connection: its output is in bert_jax.log, and
# launch/restart.sh starts it again after a crash. The same command resumes from the last checkpoint.
# A host refuses it while a run is at work there.
set -euo pipefail
if [ "${1:-}" = --help ]; then
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
  exit
fi
on_every_host="set -e; cd ${DIRECTORY:-bert_jax}; "
if [ "${1:-}" = --stop ]; then
  # shellcheck disable=SC2016 # the host expands it
  on_every_host+='kill -TERM -- "-$(cat bert_jax.pid)"'
else
  # With --cluster, a host that does not find the others ends instead of training alone.
  pretrain=$(printf '%q ' bash launch/restart.sh python -m bert_jax.pretrain --cluster "$@")
  at_work='error: a run is at work here, see bert_jax.log; accepted: first wait, or --stop it'
  # The run inherits descriptor 9, and with it the lock.
  on_every_host+="exec 9>>bert_jax.log; flock --nonblock 9 || { echo '$at_work' >&2; exit 2; }; "
  on_every_host+="source .venv/bin/activate; : >bert_jax.log; "
  on_every_host+="setsid nohup $pretrain >>bert_jax.log 2>&1 </dev/null & echo \$! >bert_jax.pid; "
  on_every_host+="tail --pid=\$! --lines=+1 --follow bert_jax.log; wait \$!"
fi
gcloud compute tpus tpu-vm ssh "${TPU:?is the name of the slice}" --zone="${ZONE:?is its zone}" \
  --worker=all --command="$on_every_host"
