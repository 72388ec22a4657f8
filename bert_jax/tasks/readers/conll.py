"""CoNLL and CoNLL-U files: one token on each line, a blank line after each sentence."""

import itertools
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bert_jax.errors import DataError
from bert_jax.tasks.readers.records import Fields, cells_by_name, numbered_lines

CONLLU_COLUMNS = "id form lemma upos xpos feats head deprel deps misc".split()


def read_conll(path: Path, columns: Sequence[str]) -> Iterator[Fields]:
    """Returns a record for each sentence. Each field is the list of its cells in one column.

    Tabs or spaces separate columns. `-DOCSTART-` lines belong to no sentence. Lines before a
    sentence that start with `#` and have another number of columns are comments, as in GermEval.

    Raises:
      DataError: `columns` is empty, or a line has another number of columns.
    """
    if not columns:
        raise DataError(f"{path}: task.columns is empty; accepted: the names of its columns")
    lines = (
        # `split()` would also split at a no-break space, which is part of a cell.
        (number, [] if line.startswith("-DOCSTART-") else re.findall(r"[^ \t]+", line))
        for number, line in numbered_lines(path)
    )
    yield from _sentences(path, lines, columns, separator="tabs or spaces")


def read_conllu(path: Path) -> Iterator[Fields]:
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

    yield from _sentences(path, lines(), CONLLU_COLUMNS, separator="tabs")


def _sentences(
    path: Path, lines: Iterator[tuple[int, list[str]]], columns: Sequence[str], *, separator: str
) -> Iterator[Fields]:
    for is_sentence, group in itertools.groupby(lines, key=lambda line: bool(line[1])):
        if is_sentence:
            rows = [(f"{path}:{number}", cells) for number, cells in group]
            while rows and rows[0][1][0].startswith("#") and len(rows[0][1]) != len(columns):
                del rows[0]  # a comment
            if rows:
                yield rows[0][0], partial(_sentence, rows, columns, separator)


def _sentence(rows: list[tuple[str, list[str]]], columns: Sequence[str], separator: str) -> dict:
    tokens = [cells_by_name(*row, columns, separator=separator) for row in rows]
    return {name: [token[name] for token in tokens] for name in columns}
