"""Collects runs for a report: their points, their curves, and the findings about their data."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.audit.findings import Finding, find
from bert_jax.config import from_json
from bert_jax.data.passport import load_passport
from bert_jax.errors import ConfigError, DataError, located, require
from bert_jax.faults.run_files import read_rows
from bert_jax.files import read_json, read_json_if_whole, read_text
from bert_jax.planning.timeline import phase_flops, phase_tokens
from bert_jax.sweeps.comparison import Row, compare
from bert_jax.sweeps.evaluations import outcomes_of_evaluations
from bert_jax.sweeps.grid import PlannedRun, Point, points_of
from bert_jax.sweeps.runs import metrics_of, status
from bert_jax.sweeps.trunks import without_branch
from bert_jax.sweeps.tuning import FILE
from bert_jax.training.experiment import Experiment, phases

MOST_ROWS = 300
"""Number of rows of a curve of training in the page. Rows with an evaluation are all kept."""

AXES = ("steps", "tokens", "FLOPs", "seconds")


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The content of a report."""

    source: dict[str, Any]
    """The arguments of `gather`."""
    points: list[Point]
    """The first point is the base. The id of a run is its name in the report."""
    directories: dict[str, Path]
    """The directory of each run."""
    states: dict[str, str]
    """The status of each run, such as `done`."""
    results: dict[str, dict[str, Any]]
    """The result of each run; empty if it has not finished."""
    rows: list[Row]
    """The comparison of the points, metric by metric."""
    findings: dict[str, list[Finding] | None]
    """The findings about each directory of data; None if its passport cannot be read."""


def gather(directories: Sequence[Path], *, base: str = "") -> Gathered:
    """Reads the runs in some directories: each is a run, or has runs, such as that of a sweep.

    The other points are compared with that of the run `base`, by default the first run.

    Raises:
      ConfigError: a directory has no run, a config is not valid, or no run has the name `base`.
    """
    places = [Path(os.path.abspath(one)) for one in directories]  # `.` has no name
    found = [run for place in places for run in find_runs(place)]
    paths = {_name(path, found): path for path in found}
    tuned = {k: v for path in places for k, v in read_json_if_whole(path / FILE).items()}
    runs = []
    for name, path in paths.items():
        with located(path):
            experiment = from_json(Experiment, read_json(path / "config.json"))
        runs.append(PlannedRun(name, {}, without_branch(experiment), tuning=tuned.get(name)))
    if base:
        require(base in paths, "--base", base, f"the name of a run, such as {runs[0].id}")
        first = replace(next(run for run in runs if run.id == base).experiment, seed=0)
        runs.sort(key=lambda run: replace(run.experiment, seed=0) != first)
    points = points_of(runs)
    told = {run: line for one in places for run, line in summary(one).items()}
    results = {name: metrics_of(path) for name, path in paths.items()}
    states = {name: status(path) for name, path in paths.items()}
    for name, path in paths.items():
        # In the summary, a run whose evaluation failed counts as failed. It may have ended since.
        line = told.get(path, {})
        if line.get("status") == "failed" and "" not in map(line.get, results[name]):
            states[name] = "failed"
    outcomes = {name: outcomes_of_evaluations(path) for name, path in paths.items()}
    failed = [name for name, state in states.items() if state == "failed"]
    data = dict.fromkeys(
        phase.experiment.data.directory for run in runs for phase in phases(run.experiment)
    )
    return Gathered(
        source={"directories": [str(one) for one in directories], "base": base},
        points=points,
        directories=paths,
        states=states,
        results=results,
        rows=compare(points, results, failed=failed, outcomes=outcomes),
        findings={directory: find_in(directory) for directory in data},
    )


def find_runs(directory: Path) -> list[Path]:
    """Returns the runs in a directory: itself, or those of the last sweep in it, in its order."""
    if (directory / "config.json").exists():
        return [directory]
    runs = sorted(file.parent for file in directory.glob("*/config.json"))
    if not runs:
        raise ConfigError(
            f"{directory} has no config.json, and no directory in it has one; accepted: a run of "
            "pretrain, or a directory of runs such as that of sweep"
        )
    return [run for run in summary(directory) if run in runs] or runs


def summary(directory: Path) -> dict[Path, dict[str, str]]:
    """Returns the line of each run in the `summary.csv` of a sweep; empty without the file.

    Raises:
      DataError: the file has no column `id` or `status`.
    """
    file = directory / "summary.csv"
    if not file.exists():
        return {}
    lines = csv.DictReader(read_text(file).splitlines())
    known = lines.fieldnames or []
    whole = {"id", "status"} <= set(known)
    require(whole, f"{file}: columns", known, "those that sweep writes", error=DataError)
    return {directory / line["id"]: line for line in lines}


def _name(path: Path, runs: Sequence[Path]) -> str:
    """Returns the name of a run's directory, with its parents if another run has the same name."""
    if sum(run.name == path.name for run in runs) == 1:
        return path.name
    return str(path.relative_to(os.path.commonpath([run.parent for run in runs])))


def find_in(directory: str) -> list[Finding] | None:
    """Returns the findings that the passport of prepared data gives; None if it is not there."""
    try:
        return find(load_passport(directory), unused_share=0.0, shortcut=None)
    except DataError:
        return None


def curves_of(directory: Path, experiment: Experiment) -> dict[str, list[float | None]]:
    """Returns the columns of `metrics.jsonl`, and those of `AXES`, with five digits.

    Tokens and FLOPs are upper bounds, because they assume rows without padding. Seconds follow from
    the tokens per second of the rows; if the run has finished, their last is the run's time.
    """
    file = directory / "metrics.jsonl"
    stored = list(read_rows(file).rows.values()) if file.exists() else []
    stride = -(-len(stored) // MOST_ROWS)
    steps = np.array([row["step"] for row in stored], np.float64)
    plan = phases(experiment)
    ends = np.array([0, *(phase.last_step for phase in plan)])
    axes = {"steps": steps}
    for name, amount in (("tokens", phase_tokens), ("FLOPs", phase_flops)):
        axes[name] = np.interp(steps, ends, np.cumsum([0, *map(amount, plan)]))
    rates = np.array([row.get("perf/tokens_per_second", np.nan) for row in stored])
    axes["seconds"] = np.cumsum(np.nan_to_num(np.diff(axes["tokens"], prepend=0) / rates))
    total = metrics_of(directory).get("seconds")
    if total and len(stored) and axes["seconds"][-1] > 0:
        axes["seconds"] *= total / axes["seconds"][-1]
    kept = [
        number
        for number, row in enumerate(stored)
        if number % stride == 0 or any(name.startswith("eval/") for name in row)
    ]
    names = dict.fromkeys(name for row in stored for name in row if name not in ("step", "phase"))
    columns = {name: values[kept].tolist() for name, values in axes.items()}
    columns |= {name: [stored[number].get(name) for number in kept] for name in names}
    return {
        name: [None if value is None else float(f"{value:.5g}") for value in values]
        for name, values in columns.items()
    }
