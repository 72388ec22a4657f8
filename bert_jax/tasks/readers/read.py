"""Sets of examples, by a name that says what kind of file they are in, as records.

A set is named `tsv:FILE`, `csv:FILE`, `jsonl:FILE`, `conll:FILE`, `conllu:FILE`, `squad:FILE` or
`tfds:NAME:SPLIT`.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bert_jax.errors import DataError
from bert_jax.tasks.readers.conll import read_conll, read_conllu
from bert_jax.tasks.readers.records import Record, numbered_lines
from bert_jax.tasks.readers.squad import read_squad
from bert_jax.tasks.readers.tfds import read_tfds

KINDS = ("tsv", "csv", "jsonl", "conll", "conllu", "squad", "tfds")

Columns = tuple[str, ...]


def read_records(spec: str, columns: Columns = ()) -> list[Record]:
    """Returns the examples of a set.

    Raises:
      DataError: no such file, a line that is not what its kind has, or no example at all.
    """
    kind, colon, path = spec.partition(":")
    readers: dict[str, Callable[[], Iterable[Record]]] = {
        "tsv": lambda: read_tsv(Path(path), columns),
        "csv": lambda: read_csv(Path(path)),
        "jsonl": lambda: read_jsonl(Path(path)),
        "conll": lambda: read_conll(Path(path), columns),
        "conllu": lambda: read_conllu(Path(path)),
        "squad": lambda: read_squad(Path(path)),
        "tfds": lambda: read_tfds(path),
    }
    if not colon or not path or kind not in readers:
        raise DataError(
            f"{spec!r} names no set of examples; accepted: "
            f"{', '.join(f'{kind}:FILE' for kind in KINDS[:-1])}, tfds:NAME:SPLIT"
        )
    records = list(readers[kind]())
    if not records:
        raise DataError(f"{path}:1 holds no example; accepted: at least one")
    return records


def read_tsv(path: Path, columns: Columns = ()) -> Iterator[Record]:
    """Cells divided by tabs, without quoting, as GLUE's files are."""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        cells = line.split("\t")
        if not columns:
            columns = tuple(cells)
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{path}:{number} has {len(cells)} cells; accepted: {len(columns)}, "
                f"{', '.join(columns)}, divided by tabs"
            )
        yield Record(f"{path}:{number}", dict(zip(columns, cells, strict=True)))


def read_csv(path: Path) -> Iterator[Record]:
    """Cells divided by commas, quoted where they hold one; the first line names the columns."""
    reader = csv.DictReader((f"{line}\n" for _, line in numbered_lines(path)), strict=True)
    try:
        for cells in reader:
            if None in cells or None in cells.values():
                raise DataError(
                    f"{path}:{reader.line_num} has not the {len(reader.fieldnames or ())} cells of "
                    "the first line; accepted: as many"
                )
            yield Record(f"{path}:{reader.line_num}", cells)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num} is not CSV ({error})") from error


def read_jsonl(path: Path) -> Iterator[Record]:
    """A JSON object a line."""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number} is not JSON ({error})") from error
        if not isinstance(fields, dict):
            raise DataError(
                f"{path}:{number} holds a {type(fields).__name__}; accepted: a JSON object"
            )
        yield Record(f"{path}:{number}", fields)
