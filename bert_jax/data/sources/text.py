"""Plain UTF-8 text: `text:GLOB`, with a blank line between documents, and `files:GLOB`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from bert_jax.data.sentences import is_blank
from bert_jax.data.sources.base import MAX_DOCUMENT_BYTES, ByteRange, CorpusFile, Document, too_long
from bert_jax.data.sources.files import compression_of, decode_line, lines_from, record_place
from bert_jax.errors import DataError


@dataclass(frozen=True)
class TextFile(CorpusFile):
    """A text file. A line of it holds one or several sentences."""

    def read(self, byte_range: ByteRange) -> Iterator[Document | DataError]:
        if compression_of(self.path):
            return islice(_documents(byte_range), byte_range.part, None, byte_range.parts)
        return _documents(byte_range, byte_range.start, byte_range.end)


@dataclass(frozen=True)
class WholeFile(CorpusFile):
    """A text file that is a single document."""

    def read(self, byte_range: ByteRange) -> Iterator[Document | DataError]:
        if byte_range.start == 0 != byte_range.end:
            document = byte_range.attempt(partial(self._document, byte_range))
            if isinstance(document, DataError) or not is_blank(document.text):
                yield document

    def _document(self, byte_range: ByteRange) -> Document:
        lines = []
        for offset, raw in lines_from(self.path):
            if offset + len(raw) > MAX_DOCUMENT_BYTES:
                raise too_long(record_place(byte_range, 0))
            line = decode_line(raw, place=partial(record_place, byte_range, offset))
            lines.append(line.rstrip("\r\n"))
        return Document(self.path, "\n".join(lines))


def _documents(
    byte_range: ByteRange, start: int = 0, end: int | None = None
) -> Iterator[Document | DataError]:
    """Yields the documents whose preceding blank line begins in the bytes `start` to `end`.

    A reader that starts in the middle of a file cannot know where the current document began. A
    document is therefore read by the reader whose bytes hold the blank line before the document.
    """
    path = byte_range.file.path
    lines, first, size, problem = [], 0, 0, None
    ours = start == 0 != end  # the first document has no blank line before it
    for offset, raw in lines_from(path, start):
        inside = end is None or offset < end
        decode = partial(decode_line, raw, place=partial(record_place, byte_range, offset))
        line = byte_range.attempt(decode)
        if isinstance(line, DataError):
            line, problem = "?", line
        if is_blank(line):
            if lines:
                yield problem or Document(f"{path}@{first}", "\n".join(lines))
            lines, problem, ours = [], None, inside
        elif ours:
            first, size = (first, size + len(raw)) if lines else (offset, len(raw))
            if size > MAX_DOCUMENT_BYTES:
                problem = too_long(record_place(byte_range, first))
                if byte_range.on_bad_record == "stop":
                    raise problem
                lines.clear()
            lines.append(line.rstrip("\r\n"))
        if not (inside or ours):
            return
    if lines:
        yield problem or Document(f"{path}@{first}", "\n".join(lines))
