"""What a source of text is: files, and the documents of any part of each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from bert_jax.errors import DataError

MAX_DOCUMENT_BYTES = 2**24
"""A longer document is refused, so that memory stays bounded; War and Peace has 3.4 million."""


@dataclass(frozen=True)
class Document:
    name: str
    """Unique in its corpus: where the document begins and the field that it is, or the title that
    its corpus gives it."""
    text: str
    """Lines joined by newlines; a line is a sentence or running prose."""
    held_out: bool | None = None
    """Set by a corpus that names its evaluation documents; None leaves it to the hash."""


@dataclass(frozen=True, kw_only=True)
class ByteRange:
    """The part of one file that belongs to one slice of the corpus."""

    file: "CorpusFile"
    start: int
    end: int
    """Bytes of the file: documents that begin in them, where it can be read from the middle."""
    part: int
    parts: int
    """Else every `parts`-th document from number `part` on, `parts` being the slices that share
    the file."""
    weight: float = 1.0
    """How often each document is used."""


class CorpusFile(Protocol):
    """A file of documents; a value that can be sent to another process."""

    @property
    def path(self) -> str:
        """Local path or fsspec URL."""
        ...

    @property
    def size(self) -> int:
        """In bytes; at least 1."""
        ...

    def read(self, byte_range: ByteRange) -> Iterator[Document]:
        """Yields the documents of the byte range, in the order of the file.

        Ranges that cover the file without overlap yield each document once.

        Raises:
          DataError: the file, its line or record number, and what is wrong there.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CorpusSource:
    """Files of one kind, as a spec names them."""

    spec: str
    files: tuple[CorpusFile, ...]
    weight: float = 1.0
    licence: str | None = None
    """What the source itself says; None where it says nothing."""


def text_of(record: object, field: str, *, place: Callable[[], str]) -> str:
    """The text of a record's field: a string, or a list of strings that are its lines.

    Args:
      place: says where the record is; called for an error only.

    Raises:
      DataError: the record has no such field, or something else than text in it.
    """
    if not isinstance(record, dict):
        found = type(record).__name__
        raise DataError(f"{place()} holds a {found}; accepted: an object with field {field!r}")
    if field not in record:
        found = ", ".join(map(repr, record)) or "none at all"
        raise DataError(f"{place()} has no field {field!r}, but {found}; accepted: SPEC:FIELD")
    value = record[field]
    lines = value if isinstance(value, list) else [value]
    try:
        lines = [line.decode("utf-8") if isinstance(line, bytes) else line for line in lines]
        text = "\n".join(lines)
        size = len(text.encode("utf-8"))
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        # Bytes that are not UTF-8, or the half of a character that JSON can spell.
        raise DataError(f"{place()} has no text in field {field!r} ({error.reason})") from error
    except TypeError as error:
        shown = repr(value)[:40]
        raise DataError(
            f"{place()} has {shown} in field {field!r}; accepted: a string, or a list of strings"
        ) from error
    if size > MAX_DOCUMENT_BYTES:
        raise too_long(place())
    return text


def too_long(place: str) -> DataError:
    return DataError(
        f"{place} begins a document of more than {MAX_DOCUMENT_BYTES:,} bytes; accepted: shorter "
        "ones, which in plain text a blank line divides"
    )
