"""Small files of a run, which may be damaged: `result.json`, and the rows of `metrics.jsonl`."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from bert_jax.files import write_atomically

AS_WRITTEN = "; accepted: the file as it was written"
"""End of the message of an error about a damaged file."""


class RunResult(TypedDict):
    """Fields of every `result.json`."""

    steps: int
    seconds: float
    mlm_loss: float
    mlm_accuracy: float
    unigram_loss: float
    majority_token_accuracy: float


class WrittenRows(NamedTuple):
    """Number and hash of the rows of `metrics.jsonl` that a resumed run must find."""

    count: int
    sha256: str
    """Hash of the lines."""


class StoredRows(NamedTuple):
    """The content of a `metrics.jsonl`."""

    rows: dict[int, dict[str, Any]]
    """The rows by step, in order of the steps."""
    lines: dict[int, bytes]
    """The line of each row."""
    damaged: list[int]
    """The numbers of the damaged and the doubled lines, from 1. An incomplete last line does not
    count, because a killed process may leave it."""


def read_rows(file: Path) -> StoredRows:
    """Reads a `metrics.jsonl`. Leaves out damaged lines, and doubled lines of the same step."""
    lines: dict[int, bytes] = {}
    rows: dict[int, dict[str, Any]] = {}
    damaged = []
    *whole, _ = file.read_bytes().split(b"\n")
    for number, line in enumerate(whole, start=1):
        row = _row(line)
        if row is None or row["step"] in rows:
            damaged.append(number)
        else:
            rows[row["step"]], lines[row["step"]] = row, line + b"\n"
    steps = sorted(rows)
    return StoredRows({s: rows[s] for s in steps}, {s: lines[s] for s in steps}, damaged)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and type(row.get("step")) is int
    return row if whole and all(isinstance(v, int | float) for v in row.values()) else None


def whole_rows(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of a `metrics.jsonl`. A line on stderr names damaged and doubled lines."""
    stored = read_rows(file)
    if stored.damaged:
        print(f"{file}: {_describe(stored)}", file=sys.stderr)
    return list(stored.rows.values())


def _describe(stored: StoredRows) -> str:
    """Returns a phrase with the numbers of the damaged and the doubled lines."""
    first = ", ".join(map(str, stored.damaged[:5]))
    more = f" and {len(stored.damaged) - 5} more" if len(stored.damaged) > 5 else ""
    return f"damaged or doubled lines left out: {first}{more}"


def keep_rows(file: Path, last_step: int, written: WrittenRows | None) -> tuple[int, Any]:
    """Deletes damaged rows and rows after `last_step`. Returns number and hash of the other rows.

    A line on stderr names the damaged rows, and says if rows are lost or differ from `written`.
    """
    stored = read_rows(file) if file.exists() else StoredRows({}, {}, [])
    kept = [line for step, line in stored.lines.items() if step <= last_step]
    digest = hashlib.sha256(b"".join(kept))
    problems = []
    if stored.damaged and last_step:
        problems.append(_describe(stored))
    if written and len(kept) < written.count:
        lost = written.count - len(kept)
        problems.append(f"{lost} of {written.count} rows up to step {last_step} are lost")
    elif written and digest.hexdigest() != written.sha256:
        problems.append(f"rows have changed since step {last_step} was saved")
    if problems:
        print(f"{file}: {'; '.join(problems)}", file=sys.stderr)
    if file.exists():
        write_atomically(file, b"".join(kept))
    return len(kept), digest
