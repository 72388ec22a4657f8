"""CoNLL and CoNLL-U files: one token on each line, a blank line after each sentence."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bert_jax.errors import DataError
from bert_jax.tasks.readers.records import Record, numbered_lines

CONLLU_COLUMNS = (
    *("id", "form", "lemma", "upos", "xpos"),
    *("feats", "head", "deprel", "deps", "misc"),
)


def read_conll(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """Returns a record for each sentence; a field is the list of a column's cells.

    Tabs or spaces separate columns. `-DOCSTART-` lines belong to no sentence.

    Raises:
      DataError: the columns have no names, or a line has another number of columns.
    """
    if not columns:
        raise DataError(f"{path}: task.columns is empty; accepted: the names of its columns")
    lines = (
        # `split()` would also split at a no-break space, which is part of a cell.
        (number, [] if line.startswith("-DOCSTART-") else re.findall(r"[^ \t]+", line))
        for number, line in numbered_lines(path)
    )
    yield from _sentences(path, lines, columns)


def read_conllu(path: Path) -> Iterator[Record]:
    """Returns a record for each sentence of Universal Dependencies: ten columns, tab-separated.

    Multiword tokens (`1-2`) and empty nodes (`1.1`) have no tag and are skipped.

    Reference: https://universaldependencies.org/format.html
    """

    def lines() -> Iterator[tuple[int, list[str]]]:
        for number, line in numbered_lines(path):
            if line.startswith("#"):
                continue
            cells = line.split("\t") if line.strip(" \t") else []
            if not cells or cells[0].isdecimal() or len(cells) != len(CONLLU_COLUMNS):
                yield number, cells

    yield from _sentences(path, lines(), CONLLU_COLUMNS)


def _sentences(
    path: Path, lines: Iterator[tuple[int, list[str]]], columns: Sequence[str]
) -> Iterator[Record]:
    first, rows = 0, []
    for number, cells in lines:
        if not cells:
            if rows:
                yield _record(path, first, rows, columns)
            rows = []
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{path}:{number} has {len(cells)} columns; accepted: {len(columns)}, "
                f"{', '.join(columns)}"
            )
        first = first if rows else number
        rows.append(cells)
    if rows:
        yield _record(path, first, rows, columns)


def _record(path: Path, first: int, rows: list[list[str]], columns: Sequence[str]) -> Record:
    cells = map(list, zip(*rows, strict=True))
    return Record(f"{path}:{first}", dict(zip(columns, cells, strict=True)))
