"""Finds damaged checkpoints, and the best checkpoint.

Each step is saved with the SHA-256 of its files. They are compared before anything is restored.
"""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypedDict

import jax
import numpy as np
from jax.experimental import multihost_utils

from bert_jax.config.paths import (
    COMMITTED,
    failure_of_remote,
    files_below,
    is_remote,
    move_directory,
)
from bert_jax.errors import CheckpointError
from bert_jax.files import FilePath, read_json, sha256_of_file, write_json

DIGESTS_FILE = "digests.json"

FORMAT_VERSION = 1

TEMPORARY = ".orbax-checkpoint-tmp"
"""Part of the name of a step's directory until orbax has written all files."""

WRITTEN_LATER = "_CHECKPOINT_METADATA"
"""File to which orbax adds the time of the rename. Nothing is restored from this file."""

_STEP = re.compile("0|[1-9][0-9]*")
"""Name of a step's directory."""

THREADS = 4
"""Number of files that are hashed at once; hashing releases Python's global interpreter lock."""


def write_digests(checkpoints: Path) -> None:
    """Writes `digests.json` into the step that is being saved, before it gets its final name."""
    for step in _unfinished(checkpoints):
        files = [path for path in files_below(step) if path != step / WRITTEN_LATER]
        content = {"format_version": FORMAT_VERSION, "sha256": _hash(files, step)}
        write_json(step / DIGESTS_FILE, content)


def _unfinished(checkpoints: Path) -> list[Path]:
    if not is_remote(checkpoints):
        return list(checkpoints.glob(f"*{TEMPORARY}*"))
    saved = map(str, saved_steps(checkpoints.parent))
    names = {path.name for path in checkpoints.iterdir() if _STEP.fullmatch(path.name)}
    return [checkpoints / name for name in names.difference(saved)]


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps in `workdir/checkpoints`, the last first.

    A directory named by a step is complete: orbax gives it this name after all files are written.
    In gs://, a step is complete when it has the file `COMMITTED`.
    """
    checkpoints = workdir / "checkpoints"
    if is_remote(workdir):
        names = [path.parent.name for path in checkpoints.glob(f"*/{COMMITTED}")]
    else:
        names = [path.name for path in checkpoints.glob("*") if path.is_dir()]
    return sorted((int(name) for name in names if _STEP.fullmatch(name)), reverse=True)


def standing(step: Path) -> dict[str, Any]:
    """Returns two values that decide how long a saved step is kept.

    `regular` is False if the step was saved because of a signal, and not on schedule. `held_out`
    has the phase and the loss of the evaluation at this step, or is None. If they cannot be
    read, or an earlier version of bert_jax saved the step, it counts as regular and not evaluated.
    """
    try:
        position = position_of(step)
    except CheckpointError:
        position = {}
    regular, held_out = position.get("regular", True), position.get("held_out")
    whole = (
        isinstance(held_out, dict)
        and type(held_out.get("phase")) is int
        and type(held_out.get("loss")) is float
    )
    return {"regular": regular is not False, "held_out": held_out if whole else None}


def rank(found: dict[str, Any]) -> tuple[int, float]:
    """Returns a sort key for a result of `standing`. The best step has the largest key.

    The losses of different phases cannot be compared, because each phase has other held-out
    examples. Every step of a later phase therefore ranks above all steps of earlier phases.
    """
    held_out = found["held_out"]
    return (held_out["phase"], -held_out["loss"]) if held_out else (0, 0.0)


def best_step(workdir: Path) -> int | None:
    """Returns the saved step with the lowest held-out loss in the last evaluated phase.

    The result is None if no saved step was evaluated.
    """
    checkpoints = workdir / "checkpoints"
    found = {step: standing(checkpoints / str(step)) for step in saved_steps(workdir)}
    evaluated = [step for step in found if found[step]["held_out"]]
    return max(evaluated, key=lambda step: rank(found[step]), default=None)


def choose_step(workdir: Path, step: int | Literal["best"] | None) -> int:
    """Returns the number of the saved step that `step` selects. None selects the last step.

    Raises:
      CheckpointError: there is no such step.
    """
    steps = saved_steps(workdir)
    if not steps:
        raise CheckpointError(f"{workdir} has no checkpoint yet")
    if step is None:
        return steps[0]
    found = best_step(workdir) if step == "best" else step
    if found not in steps:
        what = "checkpoint that was evaluated" if step == "best" else f"checkpoint {step}"
        raise CheckpointError(f"{workdir} has no {what}; accepted: {steps[::-1]}")
    return steps[steps.index(found)]  # an int, if 3000.0 was asked for


def check_step(workdir: Path, step: int) -> None:
    """Compares each file of a saved step with its SHA-256.

    A step of an earlier version of bert_jax has no digests. A line on stderr then says so.

    Raises:
      CheckpointError: a file is missing or has changed. The message names it.
    """
    directory = workdir / "checkpoints" / str(step)
    promised = False
    if (workdir / "config.json").exists():  # a directory of weights alone has no position
        promised = position_of(directory).get("digests", False)
    if (directory / DIGESTS_FILE).exists():
        try:
            _check_files(directory)
        except CheckpointError as error:
            if directory.exists():
                raise
            gone = f"{directory} was deleted while it was read; accepted: a newer checkpoint"
            raise CheckpointError(gone) from error
    elif promised:
        raise _damaged(directory, f"{DIGESTS_FILE} is missing")
    else:
        print(f"{directory} has no {DIGESTS_FILE}: its files are not checked", file=sys.stderr)


def newest_whole_step(workdir: Path, *, on_damaged: Literal["previous", "stop"]) -> int:
    """Returns the last step whose files all have the saved SHA-256, or 0 if nothing was saved.

    Process 0 checks the files for all processes.

    Raises:
      CheckpointError: no step is whole; or the last step is damaged, and `on_damaged` is 'stop'.
    """
    found, problem = 0, None
    if jax.process_index() == 0:
        try:
            found = _newest_whole_step(workdir, on_damaged)
        except CheckpointError as error:
            found, problem = -1, error
    found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    if found < 0:
        raise problem or CheckpointError(f"{workdir}: process 0 found a damaged checkpoint")
    return found


def _newest_whole_step(workdir: Path, on_damaged: Literal["previous", "stop"]) -> int:
    newest = None
    for step in saved_steps(workdir):
        try:
            check_step(workdir, step)
        except CheckpointError as error:
            if is_empty(workdir, step):
                continue
            newest = newest or error
            if on_damaged == "stop":
                raise
            print(str(error).partition("; accepted")[0], file=sys.stderr)
        else:
            return step
    if newest:
        raise newest
    return 0


def is_empty(workdir: Path, step: int) -> bool:
    """Returns whether the directory of a step holds nothing that could be lost."""
    return not any((workdir / "checkpoints" / str(step)).iterdir())


def move_damaged(workdir: Path, *, newest_whole: int) -> None:
    """Moves the steps after `newest_whole` to `workdir/damaged`. Only process 0 moves them."""
    for step in saved_steps(workdir) if jax.process_index() == 0 else ():
        if step > newest_whole:
            names = [str(step), *(f"{step}-{number}" for number in range(2, 1000))]
            aside = next(p for name in names if not (p := workdir / "damaged" / name).exists())
            move_directory(workdir / "checkpoints" / str(step), aside)
            print(f"the damaged checkpoint {step} is now {aside}", file=sys.stderr)
    multihost_utils.sync_global_devices("move_damaged")  # other processes list the steps later


class _Digests(TypedDict):
    format_version: int
    sha256: dict[FilePath, str]


def _check_files(step: Path) -> None:
    try:
        content = read_json(step / DIGESTS_FILE, _Digests, error=CheckpointError)
    except CheckpointError as error:
        raise _damaged(step, f"{DIGESTS_FILE} has changed") from error
    wanted = content["sha256"]
    names = [step / name for name in wanted]
    if content["format_version"] != FORMAT_VERSION:
        version = f"format_version {content['format_version']}, not {FORMAT_VERSION}"
        raise _damaged(step, f"{DIGESTS_FILE} has {version}")
    try:
        found = _hash([name for name in names if name.is_file()], step)
    except OSError as error:
        if failure_of_remote(error):
            raise
        raise _damaged(step, f"{error.filename} cannot be read: {error.strerror}") from error
    wrong = [
        f"{name} {'has changed' if name in found else 'is missing'}"
        for name, digest in wanted.items()
        if found.get(name) != digest
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more files" if len(wrong) > 3 else ""
        raise _damaged(step, ", ".join(wrong[:3]) + more)


def position_of(step: Path) -> dict[str, Any]:
    """Returns what a step stores beside its arrays: the next batch, hashes and times.

    Raises:
      CheckpointError: it is damaged.
    """
    try:
        return read_json(step / "position" / "metadata", error=CheckpointError)
    except CheckpointError as error:
        raise _damaged(step, "its position cannot be read") from error


def _damaged(step: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{step} is damaged ({problem}); accepted: another step; delete this directory to "
        "continue from the checkpoint before it"
    )


def _hash(files: list[Path], step: Path) -> dict[str, str]:
    names = (str(file.relative_to(step)) for file in files)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(sha256_of_file, files), strict=True))
