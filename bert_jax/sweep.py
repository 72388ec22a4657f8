"""Runs the sweep of an experiment file, one run after another on this machine.

  python -m bert_jax.sweep --experiment=experiments/ablations/masking_rate.py --workdir=DIR
  python -m bert_jax.sweep --experiment=experiments/ablations/masking_rate.py --dry_run

Beside get_config, the file has a function sweep(), or several functions sweep_*(). Each function
yields overrides such as {"optimizer.learning_rate": 1e-3, "seed": 0}. There is a run for every
combination of one override from each function. The directory of a run is DIR/ID, where ID is the
hash of the run's config. A sweep that began with an earlier config format keeps the directories and
the defaults of that format. A failed run does not end the sweep. The same command again makes
missing or failed runs and continues interrupted runs. DIR/summary.{csv,md} has the results.
"""

import csv
import io
import json
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from absl import flags
from rich.table import Table

from bert_jax import command, config, environment
from bert_jax.config.paths import open_path
from bert_jax.data.passport import check_outside_data, check_passport, load_passport
from bert_jax.errors import BertJaxError, ConfigError, DataError
from bert_jax.faults import signals
from bert_jax.faults.run_files import RunResult
from bert_jax.files import read_json, write_atomically, write_json

RESULTS = ("mlm_loss", "mlm_accuracy", "nsp_accuracy", "unigram_loss", "steps", "seconds")


class SweepError(BertJaxError):
    """Some runs of a sweep failed."""


@dataclass(frozen=True)
class Point:
    """A run of a sweep."""

    id: str
    """Name of the run's directory."""
    overrides: dict[str, Any]
    experiment: Any


def load_sweeps(spec: str) -> list[list[dict[str, Any]]]:
    """Calls the functions sweep() and sweep_*() of an experiment file. Returns what each yields.

    Raises:
      ConfigError: there is no such function, or it raises an exception or yields something else.
    """
    file, _ = config.split_spec(spec)
    found = {
        name: value
        for name, value in sorted(vars(config.load_module(spec)).items())
        if name == "sweep" or name.startswith("sweep_")
    }
    if not found:
        raise ConfigError(f"{file} has no sweep() and no sweep_*(); accepted: {_SWEEP}")
    return [_overrides_of(value, name, file) for name, value in found.items()]


_SWEEP = 'a function without arguments that yields dictionaries such as {"model.num_layers": 6}'


def _overrides_of(function: Any, name: str, file: Path) -> list[dict[str, Any]]:
    with config.errors_of(file):
        yielded = function() if callable(function) else function
        if not isinstance(yielded, Iterable) or isinstance(yielded, str | Mapping):
            raise ConfigError(f"{file}: {name} yields {yielded!r:.60}; accepted: {_SWEEP}")
        overrides = list(yielded)
    if not overrides:
        raise ConfigError(f"{file}: {name} yields nothing; accepted: {_SWEEP}")
    for one in overrides:
        if not isinstance(one, Mapping) or not all(isinstance(path, str) for path in one):
            raise ConfigError(f"{file}: {name} yields {one!r:.60}; accepted: {_SWEEP}")
    return overrides


def expand(base: Any, sweeps: Sequence[Iterable[dict[str, Any]]]) -> list[Point]:
    """Returns a point for each different config that combines one override of each sweep."""
    points: dict[str, Point] = {}
    for combination in product(*(list(sweep) for sweep in sweeps)):
        overrides = {path: value for part in combination for path, value in part.items()}
        experiment = config.override(base, overrides)
        identifier = config.config_hash(experiment)
        points.setdefault(identifier, Point(identifier, overrides, experiment))
    return list(points.values())


def runs_of_earlier_formats(workdir: Path) -> dict[str, Any]:
    """Returns the experiments of the runs that began with an earlier config format, by directory.

    The name of such a run's directory is the config's hash in the earlier format, not in today's.
    """
    files = sorted(workdir.glob("*/config.json"))
    runs = {file.parent.name: command.load(str(file)) for file in files}
    return {name: run for name, run in runs.items() if name != config.config_hash(run)}


def keep_ids(points: Sequence[Point], earlier: Mapping[str, Any]) -> list[Point]:
    """Returns the points. A point with the same config as a run in `earlier` gets the run's id."""
    names = {config.config_hash(run): name for name, run in earlier.items()}
    return [replace(point, id=names.get(point.id, point.id)) for point in points]


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


def run_point(point: Point, directory: Path, *, lock: int) -> None:
    """Runs a point with `pretrain` in a new process, which holds the sweep's lock until it ends.

    The terminal shows the process's stderr. If it fails, `error.txt` keeps the last 50 lines.

    Raises:
      Interrupted: a signal came to this process, which passes it on, or to the new process.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "error.txt").unlink(missing_ok=True)
    config_file = directory / "config.json"
    if not config_file.exists():
        write_json(config_file, config.to_json(point.experiment))
    with subprocess.Popen(
        [sys.executable, *pretrain_arguments(point, directory)],
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


def pretrain_arguments(point: Point, directory: Path) -> list[str]:
    """Returns the arguments with which Python runs a point; `directory` holds its config.json."""
    flags: dict[str, Any] = {"experiment": directory / "config.json", "workdir": directory}
    if probe := point.experiment.evaluation.probe:  # a config.json alone runs no file
        flags["set"] = f"evaluation.probe={probe}"
    return ["-m", "bert_jax.pretrain", *(f"--{name}={value}" for name, value in flags.items())]


def _show(process: subprocess.Popen[str], lines: deque[str]) -> None:
    for line in process.stderr or ():
        sys.stderr.write(line)
        lines.append(line)


def summarize(points: Sequence[Point], workdir: Path) -> list[dict[str, Any]]:
    """Returns a row for each run and writes the rows to `summary.csv` and `summary.md`."""
    fields = sorted({path for point in points for path in point.overrides})
    rows = []
    for point in points:
        result = result_of(workdir / point.id)
        row = {"id": point.id, "status": status(workdir / point.id)}
        row |= {path: point.overrides.get(path, "") for path in fields}
        rows.append(row | {name: result.get(name, "") for name in RESULTS})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "summary.csv", text.getvalue())
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [[_cell(value) for value in row.values()] for row in rows]
    write_atomically(workdir / "summary.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return rows


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def main() -> None:
    """Runs the command."""
    workdir = open_path(flags.FLAGS.workdir or ".", name="--workdir", local=True)
    earlier = runs_of_earlier_formats(workdir) if flags.FLAGS.workdir else {}
    base = command.experiment_from_flags(begun=list(earlier.values()))
    points = keep_ids(expand(base, load_sweeps(flags.FLAGS.experiment)), earlier)
    if not flags.FLAGS.dry_run:
        command.required("workdir", "a directory for the runs, or --dry_run")
    check_outside_data(workdir)

    console = environment.plain_console()
    table = Table("id", "status", "overrides")
    for point in points:
        overrides = json.dumps(point.overrides, default=str)
        table.add_row(point.id, status(workdir / point.id), overrides)
    console.print(table)
    if flags.FLAGS.dry_run:
        return
    for point in points:
        data = point.experiment.data
        passport = load_passport(data.directory)
        check_passport(passport, data, vocab_size=point.experiment.model.vocab_size)
    with command.exclusive(workdir, wait=True) as lock:
        for number, point in enumerate(points, 1):
            if status(workdir / point.id) != "done":
                line = f"run {number} of {len(points)}: {point.id} {point.overrides}"
                console.print(line, soft_wrap=True)
                run_point(point, workdir / point.id, lock=lock)
            rows = summarize(points, workdir)
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)
    failed = [row["id"] for row in rows if row["status"] != "done"]
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(rows)} runs failed: {', '.join(failed)}; "
            f"see {workdir}/ID/error.txt; the same command runs them again"
        )


if __name__ == "__main__":
    flags.adopt_module_key_flags(command)
    flags.DEFINE_string("workdir", None, "Directory of the runs and their summary.")
    flags.DEFINE_bool("dry_run", False, "Only prints the table of runs.")
    command.run(main, resumes=True)
