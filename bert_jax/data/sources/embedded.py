"""`embedded:sotu`: the State of the Union addresses 1790-2021, included in the package."""

import importlib.resources
import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from bert_jax.data.sources.base import ByteRange, CorpusFile, CorpusSource, Document

SPEC = "embedded:sotu"
LICENCE = "Works of the United States government, in the public domain; the collection is PDDL-1.0."
_PACKED = importlib.resources.files("bert_jax.data").joinpath("embedded", "sotu.jsonl.xz")

HELD_OUT_ADDRESSES = (
    "1799_john_adams_f",
    "1818_james_monroe_dr",
    "1837_martin_van_buren_d",
    "1857_james_buchanan_d",
    "1876_ulysses_s_grant_r",
    "1896_grover_cleveland_d",
    "1915_woodrow_wilson_d",
    "1935_franklin_d_roosevelt_d",
    "1954_dwight_d_eisenhower_r",
    "1972_richard_nixon_r",
    "1992_george_bush_r",
    "2011_barack_obama_d",
)
"""Evaluation documents of `embedded:sotu`: an address about every 19 years, 4.8% of the text."""


@dataclass(frozen=True)
class EmbeddedFile(CorpusFile):
    def read(self, byte_range: ByteRange) -> Iterator[Document]:
        """Yields every `parts`-th training address; part 0 also yields the held-out addresses."""
        number = count()
        for document in read_addresses():
            owner = 0 if document.held_out else next(number) % byte_range.parts
            if owner == byte_range.part:
                yield document


def open_embedded() -> CorpusSource:
    file = EmbeddedFile(str(_PACKED), len(_PACKED.read_bytes()))
    return CorpusSource(spec=SPEC, files=(file,), licence=LICENCE)


def read_addresses() -> Iterator[Document]:
    """Yields the 233 addresses in chronological order."""
    with _PACKED.open("rb") as stream, lzma.open(stream, "rt", encoding="utf-8") as lines:
        for line in lines:
            fields = json.loads(line)
            yield Document(**fields, held_out=fields["name"] in HELD_OUT_ADDRESSES)
