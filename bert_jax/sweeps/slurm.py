"""Submits the runs of a sweep to Slurm, as one array of jobs."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import join, quote

from bert_jax import config
from bert_jax.errors import ConfigError
from bert_jax.files import write_atomically, write_json
from bert_jax.sweeps.grid import PlannedRun
from bert_jax.sweeps.runs import missing_commands

SCRIPT = """#!/usr/bin/env bash
# Written by python -m bert_jax.sweep --launcher=slurm. A job of the array makes one run.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
set -uo pipefail
directory={workdir}/$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {workdir}/slurm-ids.txt)
rm -f "$directory/error.txt"
# A pipeline, unlike 2> >(tee ...), waits for tee.
{{ eval "$(cat "$directory/slurm-commands.sh")" 2>&1 >&3 | tee "$directory/stderr.txt" >&2; }} 3>&1
status=$?
case "$status" in
  0) ;;
  1 | 2) tail -n 50 "$directory/stderr.txt" > "$directory/error.txt" ;;
  *)  # a signal, a stall, or a process that was killed: start the run again
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt 100 ]; then
      scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    fi
    ;;
esac
exit "$status"
"""


def submit(
    runs: Sequence[PlannedRun], workdir: Path, *, arguments: Sequence[str], parallel: int | None
) -> str:
    """Submits a job for each run, at most `parallel` at a time. Returns the id of the array.

    All nodes must share `workdir`. The `arguments` are those of sbatch, such as `--gpus=1`.

    Raises:
      ConfigError: Slurm refuses the array.
    """
    for run in runs:
        directory = (workdir / run.id).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "config.json").exists():
            write_json(directory / "config.json", config.to_json(run.experiment))
        commands = [["srun", sys.executable, *one] for one in missing_commands(run, directory)]
        text = " && ".join(map(join, commands))
        write_atomically(directory / "slurm-commands.sh", f"{text}\n")
    place, script = workdir.resolve(), workdir.resolve() / "slurm.sbatch"
    write_atomically(place / "slurm-ids.txt", "".join(f"{run.id}\n" for run in runs))
    write_atomically(script, SCRIPT.format(workdir=quote(str(place))))
    limit = f"%{parallel}" if parallel else ""
    array = f"--array=0-{len(runs) - 1}{limit}"
    named = [f"--job-name={_name(workdir)}", f"--output={place}/slurm-%A_%a.log"]
    return _slurm("sbatch", "--parsable", array, *named, *arguments, str(script)).split(";")[0]


def queued(workdir: Path) -> int:
    """Returns how many jobs of a sweep wait or run. Raises ConfigError if Slurm does not answer."""
    name = f"--name={_name(workdir)}"
    return len(_slurm("squeue", "--me", "--noheader", "--array", name).splitlines())


def _name(workdir: Path) -> str:
    """Returns the name of the sweep's jobs. Each directory has another name."""
    return f"sweep-{hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:10]}"


def _slurm(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        raise ConfigError(f"--launcher is 'slurm', but {program} is not on PATH; accepted: local")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{program} failed: {done.stderr.strip()}; accepted: what Slurm accepts")
    return done.stdout.strip()
