"""The directories of a sweep's runs: status, results, and the command that makes a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_jax.config import codes_of
from bert_jax.errors import DataError
from bert_jax.faults.run_files import RunResult, read_rows
from bert_jax.files import read_json
from bert_jax.sweeps.evaluations import Evaluation, metrics_of_evaluations
from bert_jax.sweeps.grid import PlannedRun


def status(directory: Path, evaluations: Sequence[Evaluation] = ()) -> str:
    """Returns `done`, `failed`, `begun` or `to do` for the directory of a run."""
    if result_of(directory) and all(one.is_done(directory) for one in evaluations):
        return "done"
    for file, word in (("error.txt", "failed"), ("config.json", "begun")):
        if (directory / file).exists():
            return word
    return "to do"


def state_of(run: PlannedRun, workdir: Path) -> str:
    """Returns the status of a run of the sweep in `workdir`, its evaluations counted."""
    return status(workdir / run.id, run.evaluations)


def missing_commands(run: PlannedRun, directory: Path) -> list[list[str]]:
    """Returns the arguments with which Python makes what a run lacks, in order."""
    commands = [] if result_of(directory) else [pretrain_arguments(run, directory)]
    missing = [one for one in run.evaluations if not one.is_done(directory)]
    codes = [code.path for code in codes_of(run.experiment)]
    return [*commands, *(one.arguments(directory, codes) for one in missing)]


def result_of(directory: Path) -> dict[str, Any]:
    """Returns the `result.json` of a run; {} if there is none.

    A damaged file counts as none: the run is done again, and says that the file is damaged.
    """
    try:
        return read_json(directory / "result.json", RunResult)
    except DataError:
        return {}


def metrics_of(directory: Path) -> dict[str, Any]:
    """Returns the result of a run, the last value of each metric `probe_*`, and the metrics
    NAME/METRIC of its evaluations; {} if not done.
    """
    result, file = result_of(directory), directory / "metrics.jsonl"
    for row in read_rows(file).rows.values() if result and file.exists() else ():
        found = {name.removeprefix("eval/"): value for name, value in row.items()}
        result |= {name: value for name, value in found.items() if name.startswith("probe_")}
    return result | (metrics_of_evaluations(directory) if result else {})


def pretrain_arguments(run: PlannedRun, directory: Path) -> list[str]:
    """Returns the arguments with which Python makes a run; `directory` holds its config.json."""
    given = [f"--experiment={directory / 'config.json'}", f"--workdir={directory}"]
    if probe := run.experiment.evaluation.probe:  # a config.json alone runs no file
        given.append(f"--set=evaluation.probe={probe}")
    given += [f"--code={code.path}" for code in codes_of(run.experiment)]
    return ["-m", "bert_jax.pretrain", *given]
