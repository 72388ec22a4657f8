"""`jsonl:GLOB[:FIELD]`: a JSON object on each line; also gzipped."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

from bert_jax.data.sources.base import ByteRange, Document, text_of
from bert_jax.data.sources.files import decode_line, is_gzip, line_place, lines_from
from bert_jax.errors import DataError


@dataclass(frozen=True)
class JsonlFile:
    path: str
    size: int
    field: str
    """Name of the field that holds the text."""

    def read(self, byte_range: ByteRange) -> Iterator[Document]:
        if is_gzip(self.path):
            lines = islice(lines_from(self.path), byte_range.part, None, byte_range.parts)
        else:
            lines = lines_from(self.path, byte_range.start)
            lines = takewhile(lambda line: line[0] < byte_range.end, lines)
        for offset, raw in lines:
            if raw.strip():
                yield Document(f"{self.path}:{self.field}@{offset}", self._text(raw, offset))

    def _text(self, raw: bytes, offset: int) -> str:
        line = decode_line(raw, path=self.path, offset=offset)
        if not offset:
            line = line.removeprefix("\ufeff")  # a byte order mark
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            place = line_place(self.path, offset)
            raise DataError(f"{place} is not JSON ({error}); accepted: JSON Lines") from error
        return text_of(record, self.field, place=lambda: line_place(self.path, offset))
