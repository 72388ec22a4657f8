#!/usr/bin/env bash
# Runs a command, and runs it again while it ends with another status than 0, 1 and 2: after a
# signal, after a stall, or when a process of the run was lost or killed. It does so at most 100
# times. Ctrl-C, SIGTERM and SIGHUP to this script are passed on to the command: the run saves its
# step, and the command is not run again.
#   bash launch/restart.sh python -m bert_jax.pretrain --experiment=FILE --workdir=DIRECTORY
set -euo pipefail
set -m # the command has a process group of its own, so it gets each signal once
signals=0
for name in INT TERM HUP; do
  # shellcheck disable=SC2064 # only $name is expanded now
  trap "signals=\$((signals + 1)); kill -$name \"\$!\" 2>/dev/null || true" "$name"
done
for _ in {0..100}; do
  "$@" &
  before=-1
  while [ "$signals" != "$before" ]; do # a signal ends `wait`, but not the command
    before=$signals status=0
    wait "$!" || status=$?
  done
  if [ "$signals" != 0 ]; then break; fi
  case "$status" in
    0 | 1 | 2) break ;; # finished, or an error that would come again
  esac
done
exit "$status"
