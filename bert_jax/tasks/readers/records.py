"""A record: one example as it is stored, with its place for error messages."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bert_jax.data.sources.files import CARRIAGE_RETURNS, read_whole
from bert_jax.errors import DataError
from bert_jax.files import parsing

Key = TypeVar("Key")
Made = TypeVar("Made")

Fields = tuple[str, Callable[[], dict[str, Any]]]
"""The place of a record, and the function that reads its fields."""


class ClassLabel(str):
    """The name of a label that is stored as a number."""

    number: int


class Record(NamedTuple):
    """One example as it is stored."""

    place: str
    """`file:line`, for error messages."""
    fields: dict[str, Any]
    named_by: str = ""
    """The part of the file that names the fields, for error messages."""

    def __getitem__(self, name: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns a field; raises DataError if the record does not have it."""
        if name not in self.fields:
            known = ", ".join(map(repr, self.fields))
            source = f", which {self.named_by} names" if self.named_by else ""
            raise DataError(f"{self.place} has no field {name!r}; accepted: {known}{source}")
        return self.fields[name]

    def text(self, name: str) -> str:
        """Returns a text field; raises DataError if the field is not a text."""
        value = self[name]
        with parsing(f"{self.place}: {name}", accepted="UTF-8"):
            if isinstance(value, bytes):
                value = value.decode("utf-8")
            elif isinstance(value, str):
                value.encode("utf-8")  # JSON can hold half of a surrogate pair
        if not isinstance(value, str):
            raise DataError(
                f"{self.place}: {name} is {value!r:.60} ({type(value).__name__}); accepted: a text"
            )
        return value


def make_all(
    makers: Iterable[tuple[Key, Callable[[], Made]]], *, skipped: list[str] | None
) -> list[tuple[Key, Made]]:
    """Calls the functions. A DataError is appended to `skipped`, or raised if that is None."""
    made = []
    for key, make in makers:
        try:
            made.append((key, make()))
        except DataError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    return made


def cells_by_name(
    place: str, cells: Sequence[str], columns: Sequence[str], *, separator: str
) -> dict[str, str]:
    """Returns a line's cells by column name; raises DataError if they do not fit the columns."""
    if len(cells) != len(columns):
        raise DataError(
            f"{place} has {len(cells)} columns; accepted: {len(columns)}, {', '.join(columns)}, "
            f"separated by {separator}, or --set task.on_bad_record=skip to leave such lines out"
        )
    if tuple(cells) == tuple(columns):
        raise DataError(f"{place} holds the names of the columns; accepted: an example")
    return dict(zip(columns, cells, strict=True))


def fingerprint_records(records: Sequence[Record]) -> str:
    """Returns the SHA-256 of the fields of all records, in order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps(record.fields, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yields the number (from 1) and the text of each line, decompressed; \n or \r\n ends a line.

    Raises:
      DataError: the file cannot be read, is damaged or not UTF-8, or its only line ends are \r.
    """
    content = read_whole(path)
    if b"\r" in content.strip() and b"\n" not in content:
        raise DataError(CARRIAGE_RETURNS.format(path))
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            yield number, raw.removesuffix(b"\r").decode("utf-8-sig")  # joined files have many
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number} holds byte 0x{raw[error.start]:02x} at column "
                f"{error.start + 1}; accepted: UTF-8 text"
            ) from error
