"""`text:GLOB`: plain UTF-8 text with a blank line between documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from bert_jax.data.sources.base import MAX_DOCUMENT_BYTES, ByteRange, Document, too_long
from bert_jax.data.sources.files import decode_line, is_gzip, line_place, lines_from


@dataclass(frozen=True)
class TextFile:
    """A text file. A line of it holds one or several sentences."""

    path: str
    size: int

    def read(self, byte_range: ByteRange) -> Iterator[Document]:
        if is_gzip(self.path):
            return islice(_documents(self.path), byte_range.part, None, byte_range.parts)
        return _documents(self.path, byte_range.start, byte_range.end)


def _documents(path: str, start: int = 0, end: int | None = None) -> Iterator[Document]:
    """Yields the documents whose preceding blank line begins in the bytes `start` to `end`.

    A reader that starts in the middle of a file cannot know where the current document began. A
    document is therefore read by the reader whose bytes hold the blank line before the document.
    """
    lines, first, size = [], 0, 0
    ours = start == 0 != end  # the first document has no blank line before it
    for offset, raw in lines_from(path, start):
        inside = end is None or offset < end
        line = decode_line(raw, path=path, offset=offset)
        if not line.strip():
            if lines:
                yield Document(f"{path}@{first}", "\n".join(lines))
            lines, ours = [], inside
        elif ours:
            first, size = (first, size + len(raw)) if lines else (offset, len(raw))
            if size > MAX_DOCUMENT_BYTES:
                raise too_long(line_place(path, first))
            lines.append(line.rstrip("\r\n"))
        if not (inside or ours):
            return
    if lines:
        yield Document(f"{path}@{first}", "\n".join(lines))
