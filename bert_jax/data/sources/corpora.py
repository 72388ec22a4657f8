"""Corpora: mixtures of text sources, their slices, documents and sentences.

A corpus is written `SPEC[@WEIGHT][,SPEC[@WEIGHT]...]`, such as `text:GLOB,jsonl:GLOB:FIELD@2`.
docs/data.md describes each SPEC. WEIGHT multiplies how often a source's documents are used.
"""

import hashlib
import heapq
import importlib.util
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Literal

from bert_jax.data.sources import embedded
from bert_jax.data.sources.base import ByteRange, CorpusSource, Document
from bert_jax.data.sources.embedded import open_embedded
from bert_jax.data.sources.files import list_files
from bert_jax.data.sources.jsonl import JsonlFile
from bert_jax.data.sources.parquet import ParquetFile
from bert_jax.data.sources.text import TextFile, WholeFile
from bert_jax.data.sources.tfds import open_tfds
from bert_jax.errors import DataError

DEFAULT_FIELD = "text"
DEFAULT_SPLIT = "train"

_BETWEEN_SPECS = re.compile(r",\s*(?=[a-z]+:)")
_WEIGHT = re.compile(r"(?P<spec>.*)@(?P<weight>[-+.\de]+|[-+]?\w*)")  # a@home.txt has none
_NAME = r"(\"[^\"]+\"|[^:/\".*?]+)"
_GLOB_AND_FIELD = re.compile(rf"(?P<pattern>.+?):(?P<field>{_NAME}(\.{_NAME})*)")
_TFDS = re.compile(r"(?P<name>.+?)(:(?P<split>[A-Za-z]\w*(\[.*\])?)(:(?P<field>\w+))?)?")

OnBadRecord = Literal["stop", "skip"]

Slice = tuple[tuple[ByteRange, ...], ...]
"""The part of a corpus that a task reads: the byte ranges of each source, in file order."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    spec: str
    sources: tuple[CorpusSource, ...]

    def slices(self, count: int, *, on_bad_record: OnBadRecord = "stop") -> list[Slice]:
        """Cuts the corpus into `count` slices of about equal size that share no document.

        A slice says what its reader does with malformed records: stop with an error, or skip them.
        Each slice has the same fraction of every source, so each shard is a small mixture.
        """
        dealt = []
        for first, source in enumerate(self.sources):
            parts = _cut_source(source, count, on_bad_record)
            # Each source starts at another slice. Otherwise slice 0 would hold all small sources.
            dealt.append(parts[-first % count :] + parts[: -first % count])
        return list(zip(*dealt, strict=True))


def _cut_source(
    source: CorpusSource, count: int, on_bad_record: OnBadRecord
) -> list[tuple[ByteRange, ...]]:
    """Cuts a source into `count` parts of equal size. A part may span several files."""
    total = sum(file.size for file in source.files)
    parts: list[list[ByteRange]] = [[] for _ in range(count)]
    before = 0
    for file in source.files:
        # Part k covers bytes k to k + 1, in units of total / count.
        first, last = before * count // total, -(-(before + file.size) * count // total)
        for number in range(first, last):
            start, end = ((k * total) // count - before for k in (number, number + 1))
            byte_range = ByteRange(
                file=file,
                start=max(start, 0),
                end=min(end, file.size),
                part=number - first,
                parts=last - first,
                weight=source.weight,
                on_bad_record=on_bad_record,
            )
            parts[number].append(byte_range)
        before += file.size
    return list(map(tuple, parts))


def open_corpus(spec: str) -> Corpus:
    """Lists the files of a corpus, without reading them.

    Raises:
      DataError: a spec is malformed, a pattern matches no file, or a file is empty.
    """
    return Corpus(spec=spec, sources=tuple(map(_open_source, _BETWEEN_SPECS.split(spec))))


def read_slice(
    corpus_slice: Slice, *, skipped: list[str] | None = None
) -> Iterator[tuple[Document, float]]:
    """Yields documents with their weights, always in the same order.

    The sources are mixed evenly: at any point, about the same share of each has been read. The
    errors of skipped records are appended to `skipped`.

    Raises:
      DataError: a file does not have the format of its spec; the message names file and line.
    """
    for _, document, weight in heapq.merge(*map(_read_source, corpus_slice), key=itemgetter(0)):
        if isinstance(document, Document):
            yield document, weight
        elif skipped is not None:
            skipped.append(str(document))


def _read_source(
    byte_ranges: Sequence[ByteRange],
) -> Iterator[tuple[float, Document | DataError, float]]:
    """Yields (share of the byte ranges that was read before, document, weight)."""
    size, read = max(1, size_of([byte_ranges])), 0
    for byte_range in byte_ranges:
        for document in byte_range.file.read(byte_range):
            yield read / size, document, byte_range.weight
            if isinstance(document, Document):
                read += len(document.text.encode())


def size_of(corpus_slice: Iterable[Sequence[ByteRange]]) -> int:
    """Returns the size of a slice in bytes, as stored."""
    return sum(part.end - part.start for byte_ranges in corpus_slice for part in byte_ranges)


def read_documents(spec: str, *, on_bad_record: OnBadRecord = "stop") -> Iterator[Document]:
    """Returns all documents of a corpus. `open_corpus` and `read_slice` list the errors."""
    (whole,) = open_corpus(spec).slices(1, on_bad_record=on_bad_record)
    return (document for document, _ in read_slice(whole))


def is_held_out(document: Document, *, fraction: float) -> bool:
    """Returns whether the document is used for evaluation instead of training.

    Some corpora name their held-out documents. Otherwise a hash of the text holds out about
    `fraction` of the documents. Equal texts are always in the same split.
    """
    if document.held_out is not None:
        return document.held_out
    return document_hash(document) < fraction * 2**64


def copies(document: Document, *, times: float) -> int:
    """Returns how often a document is used: `times`, rounded up or down by the document's hash.

    With `times` = 2.3, about three of ten documents are used 3 times, and the others twice.
    """
    whole = int(times)
    # `person` makes this hash independent of the hash that holds documents out.
    return whole + (document_hash(document, person=b"copies") < (times - whole) * 2**64)


def document_hash(document: Document, *, person: bytes = b"") -> int:
    """Returns a 64-bit hash of the words. White space between words does not matter."""
    words = " ".join(document.text.split())
    digest = hashlib.blake2b(words.encode(), digest_size=8, person=person).digest()
    return int.from_bytes(digest, "big")


def _open_source(written: str) -> CorpusSource:
    if written.rstrip().endswith(","):
        raise DataError(f"corpus {written!r} ends in a comma; accepted: SPEC[@WEIGHT][,SPEC...]")
    match = _WEIGHT.fullmatch(written)
    spec, weight = match.group("spec", "weight") if match else (written, "1")
    try:
        times = float(weight)
    except ValueError:
        times = 0.0
    if not 0 < times < math.inf:
        raise DataError(f"corpus {written!r} has weight {weight}; accepted: a number above 0")
    return replace(_open_spec(spec), spec=spec, weight=times)


def _open_spec(spec: str) -> CorpusSource:
    scheme, _, rest = spec.partition(":")
    if spec == embedded.SPEC:
        return open_embedded()
    if scheme == "tfds" and (match := _TFDS.fullmatch(rest)):
        split, field = match["split"] or DEFAULT_SPLIT, match["field"] or DEFAULT_FIELD
        return open_tfds(match["name"], split=split, field=field, spec=spec)
    if scheme in ("text", "files") and rest:
        pattern, make_file = rest, TextFile if scheme == "text" else WholeFile
    elif scheme in ("jsonl", "parquet") and rest:
        pattern, field = _split_field(rest)
        make_file = partial(JsonlFile if scheme == "jsonl" else ParquetFile, field=field)
    else:
        example = "" if rest or not spec else f"; a path needs its format, as in text:{spec}"
        raise DataError(
            f"corpus is {spec!r}; accepted: text:GLOB, jsonl:GLOB, parquet:GLOB, files:GLOB, "
            f"tfds:NAME or embedded:sotu{example}"
        )
    if scheme == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise DataError(f"{spec} needs pyarrow: pip install -e '.[corpora]'")
    files = tuple(make_file(path=path, size=size) for path, size in list_files(pattern, spec=spec))
    return CorpusSource(spec=spec, files=files)


def _split_field(rest: str) -> tuple[str, str]:
    """Divides `GLOB[:FIELD]`. The quotation marks of names are removed.

    The end of a file name can look like a field, as in `a:b-1.jsonl`.
    """
    match = _GLOB_AND_FIELD.fullmatch(rest)
    if not match:
        return rest, DEFAULT_FIELD
    pattern, field = match.group("pattern", "field")
    if not re.fullmatch(r"\w+|.*\".*", field) and os.path.exists(rest):
        return rest, DEFAULT_FIELD
    return pattern, field.replace('"', "")
