"""`jsonl:GLOB[:FIELD]`: a JSON object on each line; also compressed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile

from bert_jax.data.sources.base import ByteRange, CorpusFile, Document, text_of
from bert_jax.data.sources.files import compression_of, decode_line, lines_from, record_place
from bert_jax.errors import DataError


@dataclass(frozen=True)
class JsonlFile(CorpusFile):
    field: str
    """Name of the field that holds the text."""

    def read(self, byte_range: ByteRange) -> Iterator[Document | DataError]:
        if compression_of(self.path):
            lines = islice(lines_from(self.path), byte_range.part, None, byte_range.parts)
        else:
            lines = lines_from(self.path, byte_range.start)
            lines = takewhile(lambda line: line[0] < byte_range.end, lines)
        for offset, raw in lines:
            # A byte order mark begins each of the files that were joined to this one.
            if record := raw.removeprefix(b"\xef\xbb\xbf").strip():
                yield byte_range.attempt(partial(self._document, record, byte_range, offset))

    def _document(self, raw: bytes, byte_range: ByteRange, offset: int) -> Document:
        place = partial(record_place, byte_range, offset)
        line = decode_line(raw, place=place)
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place()} is not JSON ({error}); accepted: JSON Lines") from error
        text = text_of(record, self.field, place=place)
        return Document(f"{self.path}:{self.field}@{offset}", text)
