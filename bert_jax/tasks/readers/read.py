"""Reads a set of examples by its spec, such as `tsv:FILE`, into records."""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from bert_jax.data.sources.base import MAX_DOCUMENT_BYTES
from bert_jax.data.sources.files import read_whole
from bert_jax.data.sources.parquet import open_parquet, read_rows
from bert_jax.errors import DataError
from bert_jax.files import parse_json
from bert_jax.tasks.readers.conll import read_conll, read_conllu
from bert_jax.tasks.readers.records import Fields, Record, cells_by_name, make_all, numbered_lines
from bert_jax.tasks.readers.squad import read_squad
from bert_jax.tasks.readers.tfds import read_tfds


def read_records(
    spec: str, columns: tuple[str, ...] = (), *, skipped: list[str] | None = None
) -> list[Record]:
    """Returns the examples of a set. `spec` is KIND:FILE, such as tsv:FILE, or tfds:NAME:SPLIT.

    A FILE may be compressed. `tsv:FILE:COLUMN,COLUMN,...` and `conll:FILE:COLUMN,COLUMN,...` name
    the columns of the file instead of `columns`.

    If `skipped` is a list, malformed records are left out and their errors are appended to it.

    Raises:
      DataError: the file is missing, a line is wrong and not skipped, or there is no example.
    """
    kind, colon, path = spec.partition(":")
    path = os.path.expanduser(path)
    if kind in ("tsv", "conll") and ":" in path and not Path(path).exists():
        path, _, names = path.rpartition(":")
        columns = tuple(names.split(","))
        _check_names(columns, place=spec)
    readers: dict[str, Callable[[], Iterable[Fields]]] = {
        "tsv": lambda: read_tsv(Path(path), columns),
        "csv": lambda: read_csv(Path(path)),
        "jsonl": lambda: read_jsonl(Path(path)),
        "conll": lambda: read_conll(Path(path), columns),
        "conllu": lambda: read_conllu(Path(path)),
        "squad": lambda: read_squad(Path(path)),
        "parquet": lambda: read_parquet(Path(path)),
        "tfds": lambda: read_tfds(path),
    }
    if not colon or not path or kind not in readers:
        suffix = Path(spec).suffix[1:]
        example = f"; did you mean {suffix}:{spec}" if suffix in readers and not colon else ""
        raise DataError(
            f"{spec!r} names no set of examples{example}; accepted: "
            f"{', '.join(f'{name}:FILE' for name in list(readers)[:-1])}, tfds:NAME:SPLIT"
        )
    if kind != "tfds" and not Path(path).exists():
        raise DataError(f"{path} does not exist{_how_to_make(Path(path))}")
    named_by = "line 1" if kind == "csv" or (kind == "tsv" and not columns) else ""
    records = [Record(*one, named_by) for one in make_all(readers[kind](), skipped=skipped)]
    if not records:
        raise DataError(f"{path}:1 holds no example; accepted: at least one")
    return records


def _how_to_make(path: Path) -> str:
    if path.parts[:2] != ("data", "tasks") or len(path.parts) < 4:
        return "; accepted: an existing file"
    script = f"python benchmarks/task_sets.py --output=data/tasks --only={path.parts[2]}"
    return f"; if docs/tasks.md lists the set, make it with `{script}`"


def read_tsv(path: Path, columns: tuple[str, ...]) -> Iterator[Fields]:
    """Returns a record for each line of tab-separated cells without quoting, as in GLUE's files.

    If line 1 names one of `columns` and has another number of cells, it is the header of this file,
    as in CoLA's test file. If it has a name of `columns` and other names, it is an error.
    """
    rows = [(number, line.split("\t")) for number, line in numbered_lines(path)]
    first = rows[0][1]
    if len(first) != len(columns) and set(first) & set(columns):
        columns = ()
    elif tuple(first) != columns and any(map(str.__eq__, first, columns)):
        raise DataError(
            f"{path}:1 is a header with other names than {', '.join(columns)}; accepted: a file "
            "without a header, or no task.columns"
        )
    return _read_rows(path, rows, columns, separator="tabs")


def read_csv(path: Path) -> Iterator[Fields]:
    """Returns a record for each CSV row; the first line names the columns."""
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    reader = csv.reader((f"{line}\n" for _, line in numbered_lines(path)), strict=True)
    try:
        rows = ((reader.line_num, cells) for cells in reader)
        yield from _read_rows(path, rows, (), separator="commas")
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num} is not CSV ({error}); accepted: CSV") from error


def _read_rows(
    path: Path, rows: Iterable[tuple[int, list[str]]], columns: tuple[str, ...], *, separator: str
) -> Iterator[Fields]:
    """Returns a record for each row with a cell that is not blank: spreadsheets write blank rows.

    If `columns` is empty, the first such row names the columns.
    """
    rows = (row for row in rows if any(map(str.strip, row[1])))
    columns = columns or tuple(next(rows, (1, []))[1])
    _check_names(columns, place=f"{path}:1")
    for number, cells in rows:
        place = f"{path}:{number}"
        yield place, partial(cells_by_name, place, cells, columns, separator=separator)


def _check_names(columns: Iterable[str], *, place: str) -> None:
    for name, count in Counter(columns).items():
        if name and count > 1:
            raise DataError(f"{place} names {count} columns {name!r}; accepted: each name once")


def read_jsonl(path: Path) -> Iterator[Fields]:
    """Returns a record for each line, which is a JSON object."""
    for number, line in numbered_lines(path):
        if line.strip():
            place = f"{path}:{number}"
            yield place, partial(parse_json, line, place=place, advice=" on each line")


def read_parquet(path: Path) -> Iterator[Fields]:
    """Returns a record for each row. Its place is `FILE@ROW`, counted from 0, as for corpora."""
    content = read_whole(path)
    file = open_parquet(io.BytesIO(content), str(path), len(content))
    _check_names(file.schema_arrow.names, place=str(path))
    for row, fields in read_rows(file, str(path), 0, file.metadata.num_rows):
        yield f"{path}@{row}", fields.copy
