"""Reads a set of examples by its spec, such as `tsv:FILE`, into records."""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bert_jax.errors import DataError
from bert_jax.files import parse_json
from bert_jax.tasks.readers.conll import read_conll, read_conllu
from bert_jax.tasks.readers.records import Record, cells_by_name, numbered_lines
from bert_jax.tasks.readers.squad import read_squad
from bert_jax.tasks.readers.tfds import read_tfds


def read_records(spec: str, columns: tuple[str, ...] = ()) -> list[Record]:
    """Returns the examples of a set. `spec` is KIND:FILE, such as tsv:FILE, or tfds:NAME:SPLIT.

    Raises:
      DataError: the file is missing, a line is wrong, or there is no example.
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
            f"{', '.join(f'{name}:FILE' for name in list(readers)[:-1])}, tfds:NAME:SPLIT"
        )
    if kind != "tfds" and not Path(path).exists():
        raise DataError(f"{path} does not exist{_how_to_make(Path(path))}")
    records = list(readers[kind]())
    if not records:
        raise DataError(f"{path}:1 holds no example; accepted: at least one")
    return records


def _how_to_make(path: Path) -> str:
    if path.parts[:2] != ("data", "tasks") or len(path.parts) < 4:
        return "; accepted: an existing file"
    script = f"python benchmarks/task_sets.py --output=data/tasks --only={path.parts[2]}"
    return f"; if docs/tasks.md lists the set, make it with `{script}`"


def read_tsv(path: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    """Returns a record for each line of tab-separated cells without quoting, as in GLUE's files."""
    lines = ((number, line.split("\t")) for number, line in numbered_lines(path) if line.strip())
    columns = columns or tuple(next(lines, (1, []))[1])
    for number, cells in lines:
        place = f"{path}:{number}"
        yield Record(place, cells_by_name(place, cells, columns, separator="tabs"))


def read_csv(path: Path) -> Iterator[Record]:
    """Returns a record for each CSV row; the first line names the columns."""
    reader = csv.DictReader((f"{line}\n" for _, line in numbered_lines(path)), strict=True)
    try:
        for cells in reader:
            if None in cells or None in cells.values():
                raise DataError(
                    f"{path}:{reader.line_num} has another number of cells than the first line; "
                    f"accepted: {len(reader.fieldnames or ())}"
                )
            yield Record(f"{path}:{reader.line_num}", cells)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num} is not CSV ({error}); accepted: CSV") from error


def read_jsonl(path: Path) -> Iterator[Record]:
    """Returns a record for each line, which is a JSON object."""
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        yield Record(place, parse_json(line, place=place))
