r"""Writes run directories into one record: a JSON Lines file that supports published figures.

  python benchmarks/record.py runs/gain/pretrained runs/gain/from_scratch \
    --output=docs/runs/gain_sentiment.jsonl

A run directory is the workdir of a finished `finetune` or `pretrain`. A directory of run
directories stands for all of them. A file NAME.json from benchmarks/finetune_reference.py becomes a
line too. docs/runs/README.md describes the format.
"""

import base64
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from bert_jax import command
from bert_jax.errors import ConfigError, DataError
from bert_jax.files import write_atomically
from bert_jax.sweeps.evaluations import metrics_of_evaluations

FLAGS = flags.FLAGS
FORMAT_VERSION = 1
DTYPES = ("<u1", "<i4", "<f4", "<f8")
"""Types of packed numbers, by size. `pack` uses the first that holds all values exactly."""
ACCEPTED = (
    "accepted: the workdir of a finished run, a directory of workdirs, or FILE.jsonl[:NAME] of a "
    "record"
)

Line = dict[str, Any]
"""One line of a record; its `kind` is run, difference, similarity or reference."""


def pack(array: np.ndarray) -> dict[str, Any]:
    """Returns an array as JSON: its type, its shape, and its compressed bytes in base64."""
    for dtype in DTYPES:
        with np.errstate(invalid="ignore"):  # a cast of NaN to an integer
            packed = array.astype(dtype)
        if np.array_equal(packed, array, equal_nan=True):
            data = base64.b64encode(zlib.compress(packed.tobytes(), 9)).decode()
            return {"dtype": dtype, "shape": list(array.shape), "data": data}
    raise TypeError(f"{array.dtype} does not fit into float64")


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """Returns the array that `pack` was given, as float64."""
    content = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(content, packed["dtype"]).reshape(packed["shape"]).astype(np.float64)


def describe_run(name: str, workdir: Path) -> Line:
    """Returns the line of a run.

    Raises:
      DataError: a file of the run is missing or is not JSON.
    """
    config, environment, result = (
        _load_json(workdir / f"{part}.json") for part in ("config", "environment", "result")
    )
    if given := environment.get("command"):  # a record names no directory of a machine
        given[0] = "/".join(Path(given[0]).parts[-2:])
    files = sorted(workdir.glob("seed-*/metrics.jsonl")) or [workdir / "metrics.jsonl"]
    line = {
        "format_version": FORMAT_VERSION,
        "kind": "run",
        "name": name,
        "commit": result.get("commit", environment.get("commit")),
        "config_hash": result.get("config_hash"),
        "config": config,
        "environment": environment,
        "result": result,
        "metrics": [json.loads(row) for file in files if file.exists() for row in file.open()],
    }
    if "summary" in result:
        line["outcomes"] = {
            split: _pack_split(workdir, split, result) for split in result["summary"]
        }
    if evaluations := metrics_of_evaluations(workdir):
        line["evaluations"] = evaluations
    return line


def _pack_split(workdir: Path, split: str, result: dict[str, Any]) -> dict[str, Any]:
    packed = {}
    for seed in result["seeds"]:
        file = workdir / f"seed-{seed['seed']}" / f"outcomes_{split}.npy"
        if split in seed and not file.is_file():
            raise DataError(f"{file} is missing; {ACCEPTED}")
        if split in seed:
            packed[str(seed["seed"])] = pack(np.load(file))
    return packed


def _load_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise DataError(f"{file} is missing; {ACCEPTED}")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON; {ACCEPTED}") from error


def outcomes_of(run: Line, split: str) -> list[np.ndarray] | None:
    """Returns the outcomes of each finished seed, or None if the record does not hold them."""
    return [unpack(seed) for seed in run["outcomes"][split].values()] if "outcomes" in run else None


def read_record(file: Path) -> list[Line]:
    """Returns the lines of a record.

    Raises:
      DataError: the file is missing, or a line is not of this format.
    """
    if not file.is_file():
        raise DataError(f"{file} is missing; {ACCEPTED}")
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise DataError(f"{file}:{number} is not JSON; accepted: a line of a record") from error
        version = line.get("format_version") if isinstance(line, dict) else None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{file}:{number} has format_version {version!r}; accepted: {FORMAT_VERSION}"
            )
        lines.append(line)
    return lines


def write_record(file: Path, lines: list[Line]) -> None:
    """Writes a record atomically."""
    rows = [json.dumps(line, separators=(",", ":"), allow_nan=False) for line in lines]
    write_atomically(file, "".join(f"{row}\n" for row in rows))


def load_runs(source: str) -> dict[str, Line]:
    """Returns the line of each run in `source`. Its key is its place: a path, or FILE.jsonl:NAME.

    Args:
      source: a workdir, a directory of workdirs, FILE.jsonl, or FILE.jsonl:NAME. NAME also selects
        every NAME/FOLD.

    Raises:
      DataError: there is no such run.
    """
    file, colon, name = source.partition(".jsonl:")
    if not colon and not source.endswith(".jsonl"):
        return {
            str(workdir): describe_run(workdir.name, workdir) for workdir in workdirs(Path(source))
        }
    file = Path(f"{file}.jsonl" if colon else source)
    runs = {f"{file}:{line['name']}": line for line in read_record(file) if line["kind"] == "run"}
    found = {
        place: run
        for place, run in runs.items()
        if not colon or run["name"] == name or run["name"].startswith(f"{name}/")
    }
    if not found:
        names = ", ".join(run["name"] for run in runs.values())
        raise DataError(f"{source}: the record has no such run; accepted: {names}")
    return found


def workdirs(directory: Path) -> list[Path]:
    """Returns the run directories in a directory, or the directory itself if it is one.

    Raises:
      DataError: there is none.
    """
    found = list(_walk(directory)) if directory.is_dir() else []
    if not found:
        raise DataError(f"{directory / 'config.json'} is missing; {ACCEPTED}")
    return found


def _walk(directory: Path) -> Iterator[Path]:
    if (directory / "config.json").is_file():
        yield directory
        return
    for child in sorted(directory.iterdir()):
        if child.is_dir():
            yield from _walk(child)


def describe_reference(file: Path) -> Line:
    """Returns the line of a result that benchmarks/finetune_reference.py wrote."""
    content = _load_json(file)
    return {"format_version": FORMAT_VERSION, "kind": "reference", "name": file.stem, **content}


def main(*sources: str) -> None:
    """Runs the command."""
    paths = [Path(os.path.abspath(source)) for source in sources if not source.endswith(".json")]
    if not paths:
        raise ConfigError("no run directory is given; accepted: workdirs of finished runs")
    if not FLAGS.output:
        raise ConfigError("--output is missing; accepted: a file such as docs/runs/NAME.jsonl")
    top = os.path.commonpath([path.parent for path in paths])
    found = [workdir for path in paths for workdir in workdirs(path)]
    lines = [describe_run(workdir.relative_to(top).as_posix(), workdir) for workdir in found]
    lines += [describe_reference(Path(source)) for source in sources if source.endswith(".json")]
    write_record(Path(FLAGS.output), lines)
    print(f"{FLAGS.output}: {len(lines)} lines")


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "The record to write (JSON Lines). Replaces the file.")
    command.run(main, operands=True)
