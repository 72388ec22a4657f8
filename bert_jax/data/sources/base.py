"""Defines the interface of text sources: their files, and the documents in a part of a file."""

import contextlib
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from bert_jax.errors import DataError

Made = TypeVar("Made")

MAX_DOCUMENT_BYTES = 2**24
"""A longer document is refused, to bound memory. War and Peace has 3.4 million bytes."""


@dataclass(frozen=True)
class Document:
    name: str
    """A unique name within the corpus: file, field and place, or a title."""
    text: str
    """Lines joined by newlines. A line holds one or several sentences."""
    held_out: bool | None = None
    """True: for evaluation; False: for training; None: a hash of the text decides."""


@dataclass(frozen=True, kw_only=True)
class ByteRange:
    """The part of a file that belongs to a slice of the corpus.

    A file that can be read from the middle gives the documents that begin in the bytes from
    `start` to `end`. Any other file gives every `parts`-th document, from number `part` on.
    """

    file: "CorpusFile"
    start: int
    end: int
    part: int
    parts: int
    """Number of slices that share the file."""
    weight: float = 1.0
    """Number of times that each document is used."""
    on_bad_record: Literal["stop", "skip"] = "stop"

    def attempt(self, make: Callable[[], Made]) -> "Made | DataError":
        """Calls a function; returns its DataError, if malformed records are skipped."""
        try:
            return make()
        except DataError as error:
            if self.on_bad_record == "stop":
                raise
            return error

    def document(self, record: object, field: str, *, number: int) -> "Document | DataError":
        """Returns the document in a field of record `number`; see `attempt` and `text_of`."""
        path = self.file.path

        def make() -> Document:
            text = text_of(record, field, place=lambda: f"{path}@{number}")
            return Document(f"{path}:{field}@{number}", text)

        return self.attempt(make)


@dataclass(frozen=True)
class CorpusFile(ABC):
    """A file of documents. The object can be pickled for another process."""

    path: str
    """A local path or an fsspec URL."""
    size: int
    """Size as stored, in bytes; at least 1."""

    @abstractmethod
    def read(self, byte_range: ByteRange) -> Iterator[Document | DataError]:
        """Yields the documents of the byte range, in the order of the file.

        Ranges that cover the file without overlap yield each document once. If malformed records
        are skipped, the error of each is yielded in its place.

        Raises:
          DataError: a document is malformed; the message names the file and the line or record.
        """


@dataclass(frozen=True, kw_only=True)
class CorpusSource:
    """The files that a spec names."""

    spec: str
    files: tuple[CorpusFile, ...]
    weight: float = 1.0
    licence: str | None = None
    """The licence that the source states, if any."""


def text_of(record: object, field: str, *, place: Callable[[], str]) -> str:
    """Returns the text in a record's field, which holds a string or a list of lines.

    Args:
      record: an object with fields.
      field: the name of the field. `data.text` is the field `data.text`, or else the field `text`
        of the object in the field `data`.
      place: a function that returns the file and line of the record; called only for an error.

    Raises:
      DataError: the record lacks the field, or the field holds no text.
    """
    if not isinstance(record, dict):
        found = type(record).__name__
        raise DataError(f"{place()} holds a {found}; accepted: an object with field {field!r}")
    try:
        value = _value_of(record, field)
    except KeyError as error:
        found = ", ".join(map(repr, record)) or "none at all"
        example = next(iter(record), "FIELD")
        raise DataError(
            f"{place()} has no field {field!r}, but {found:.200}; accepted: one of its fields, "
            f"named after the path, as in jsonl:GLOB:{example:.60}"
        ) from error
    lines = value if isinstance(value, list) else [value]
    try:
        lines = [line.decode("utf-8") if isinstance(line, bytes) else line for line in lines]
        text = "\n".join(lines)
        size = len(text.encode("utf-8"))
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        # The field holds bytes that are not UTF-8, or a lone surrogate, which JSON permits.
        raise DataError(
            f"{place()} has no text in field {field!r} ({error.reason}); accepted: UTF-8"
        ) from error
    except TypeError as error:
        shown = reprlib.repr(value)[:40]  # repr fails for a value that is nested deeply
        raise DataError(
            f"{place()} has {shown} in field {field!r}; accepted: a string, or a list of strings"
        ) from error
    if size > MAX_DOCUMENT_BYTES:
        raise too_long(place())
    return text


def _value_of(record: object, field: str) -> Any:
    if not isinstance(record, dict):
        raise KeyError(field)
    if field in record:
        return record[field]
    for dot in re.finditer(r"\.", field):
        with contextlib.suppress(KeyError):
            return _value_of(record[field[: dot.start()]], field[dot.end() :])
    raise KeyError(field)


def too_long(place: str) -> DataError:
    return DataError(
        f"{place} begins a document of more than {MAX_DOCUMENT_BYTES:,} bytes; accepted: shorter "
        "documents (in plain text, a blank line separates documents)"
    )
