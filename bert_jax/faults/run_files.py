"""Small files of a run, which may be damaged: `result.json`, and the rows of `metrics.jsonl`."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from bert_jax.config.paths import files_below, is_remote, parts_of
from bert_jax.files import append, read_bytes, synchronize, write_atomically

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
    """Reads a `metrics.jsonl`. Leaves out damaged lines, and doubled lines of the same step.

    Raises:
      DataError: see `read_bytes`.
    """
    lines: dict[int, bytes] = {}
    rows: dict[int, dict[str, Any]] = {}
    damaged = []
    *whole, _ = _content(file).split(b"\n")
    for number, line in enumerate(whole, start=1):
        row = _row(line)
        if row is None or row["step"] in rows:
            damaged.append(number)
        else:
            rows[row["step"]], lines[row["step"]] = row, line + b"\n"
    steps = sorted(rows)
    return StoredRows({s: rows[s] for s in steps}, {s: lines[s] for s in steps}, damaged)


def _content(file: Path) -> bytes:
    """Returns the content of a file and, in gs://, of its parts (`RowsFile`)."""
    content = read_bytes(file)
    for part in files_below(parts_of(file)) if is_remote(file) else ():
        if int(part.name) == len(content):  # other parts are already in the file
            content += part.read_bytes()
    return content


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


class RowsFile:
    """A `metrics.jsonl` to which a run appends rows.

    No file of gs:// can grow. There, each row becomes a file `metrics.jsonl.parts/OFFSET`, named by
    the number of bytes before it, and `synchronize` joins these parts to one file.
    """

    def __init__(self, file: Path, last_step: int, written: WrittenRows | None):
        """Deletes damaged rows and rows after `last_step`.

        A line on stderr names the damaged rows, and says if rows are lost or differ from `written`.
        """
        stored = read_rows(file) if file.exists() else StoredRows({}, {}, [])
        kept = [line for step, line in stored.lines.items() if step <= last_step]
        self._file, self._count = file, len(kept)
        self._hash = hashlib.sha256(b"".join(kept))
        problems = []
        if stored.damaged and last_step:
            problems.append(_describe(stored))
        if written and len(kept) < written.count:
            lost = written.count - len(kept)
            problems.append(f"{lost} of {written.count} rows up to step {last_step} are lost")
        elif written and self._hash.hexdigest() != written.sha256:
            problems.append(f"rows have changed since step {last_step} was saved")
        if problems:
            print(f"{file}: {'; '.join(problems)}", file=sys.stderr)
        self._length = sum(map(len, kept))
        if file.exists() or is_remote(file):
            write_atomically(file, b"".join(kept))
            self._delete_parts()

    def append(self, line: bytes) -> None:
        """Appends a row, which ends with a newline."""
        if is_remote(self._file):
            (parts_of(self._file) / f"{self._length:020}").write_bytes(line)
        else:
            append(self._file, line)
        self._count += 1
        self._length += len(line)
        self._hash.update(line)

    def synchronize(self) -> WrittenRows:
        """Waits until all rows are on the disk, or joins them in gs://. Returns count and hash."""
        if is_remote(self._file):
            write_atomically(self._file, _content(self._file))
            self._delete_parts()
        elif self._file.exists():
            synchronize(self._file)
        return WrittenRows(self._count, self._hash.hexdigest())

    def _delete_parts(self) -> None:
        for part in files_below(parts_of(self._file)) if is_remote(self._file) else ():
            part.unlink()
