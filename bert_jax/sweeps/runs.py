"""Makes the runs of a sweep, each in a process of its own, and reads what they left."""

import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

from bert_jax import config
from bert_jax.errors import DataError
from bert_jax.faults import signals
from bert_jax.faults.run_files import RunResult, read_rows
from bert_jax.files import read_json, write_atomically, write_json
from bert_jax.sweeps.grid import PlannedRun


def status(directory: Path) -> str:
    """Returns `done`, `failed`, `begun` or `to do` for the directory of a run."""
    if result_of(directory):
        return "done"
    for file, word in (("error.txt", "failed"), ("config.json", "begun")):
        if (directory / file).exists():
            return word
    return "to do"


def result_of(directory: Path) -> dict[str, Any]:
    """Returns the `result.json` of a run; {} if there is none.

    A damaged file counts as none: the run is done again, and says that the file is damaged.
    """
    try:
        return read_json(directory / "result.json", RunResult)
    except DataError:
        return {}


def metrics_of(directory: Path) -> dict[str, Any]:
    """Returns the result of a run, and the last value of each metric `probe_*`; {} if not done."""
    result, file = result_of(directory), directory / "metrics.jsonl"
    for row in read_rows(file).rows.values() if result and file.exists() else ():
        found = {name.removeprefix("eval/"): value for name, value in row.items()}
        result |= {name: value for name, value in found.items() if name.startswith("probe_")}
    return result


def make_run(run: PlannedRun, directory: Path, *, lock: int) -> None:
    """Makes a run with `pretrain` in a new process, which holds the sweep's lock until it ends.

    The terminal shows the process's stderr. If it fails, `error.txt` keeps the last 50 lines.

    Raises:
      Interrupted: a signal came to this process, which passes it on, or to the new process.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "error.txt").unlink(missing_ok=True)
    config_file = directory / "config.json"
    if not config_file.exists():
        write_json(config_file, config.to_json(run.experiment))
    with subprocess.Popen(
        [sys.executable, *pretrain_arguments(run, directory)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        pass_fds=[lock],
    ) as process:
        lines: deque[str] = deque(maxlen=50)
        try:
            _show(process, lines)
        except KeyboardInterrupt:
            process.terminate()  # the run saves its state and ends
            _show(process, lines)
            raise
    if process.returncode == signals.STATUS:
        raise signals.Interrupted(f"{directory} was interrupted")
    if process.returncode:
        write_atomically(directory / "error.txt", "".join(lines))


def pretrain_arguments(run: PlannedRun, directory: Path) -> list[str]:
    """Returns the arguments with which Python makes a run; `directory` holds its config.json."""
    flags: dict[str, Any] = {"experiment": directory / "config.json", "workdir": directory}
    if probe := run.experiment.evaluation.probe:  # a config.json alone runs no file
        flags["set"] = f"evaluation.probe={probe}"
    return ["-m", "bert_jax.pretrain", *(f"--{name}={value}" for name, value in flags.items())]


def _show(process: subprocess.Popen[str], lines: deque[str]) -> None:
    for line in process.stderr or ():
        sys.stderr.write(line)
        lines.append(line)
