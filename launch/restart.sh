#!/usr/bin/env bash
# Runs a command, and runs it again while it ends with another status than 0, 1 and 2: after a
# signal, after a stall, or when a process of the run was lost or killed. It does so at most 100
# times. After Ctrl-C, the run saves its step, and the command is not run again.
#   bash launch/restart.sh python -m bert_jax.pretrain --experiment=FILE --workdir=DIRECTORY
set -euo pipefail
trap 'exit 75' INT
for _ in {0..100}; do
  status=0
  "$@" || status=$?
  case "$status" in
    0 | 1 | 2) break ;; # finished, or an error that would come again
  esac
done
exit "$status"
