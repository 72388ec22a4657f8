"""Raw text: a corpus as a stream of documents, which of them are held out, and their sentences."""

import glob
import hashlib
import importlib.resources
import json
import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass

from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

from bert_jax.errors import DataError

EMBEDDED_CORPUS = "embedded:sotu"
TEXT_SCHEME = "text:"

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
"""Documents of `embedded:sotu` kept for evaluation: one in about 19 years, 4.8% of the text."""


@dataclass(frozen=True)
class Document:
    name: str
    """Unique in its corpus: the address, or `path:line` of the first line."""
    text: str
    """Lines joined by newlines; a line is a sentence or running prose."""


def read_documents(corpus: str) -> Iterator[Document]:
    """Stream the documents of `corpus`, always in the same order.

    Args:
      corpus: `embedded:sotu`, the State of the Union addresses 1790-2021, or `text:GLOB`, UTF-8
        files in sorted order (`**` matches directories) with a blank line between documents.

    Raises:
      DataError: at the call for an unknown corpus or a pattern without files, while reading for
        a line that is not UTF-8 or files without a document.
    """
    if corpus == EMBEDDED_CORPUS:
        return _read_embedded()
    if corpus.startswith(TEXT_SCHEME):
        pattern = corpus.removeprefix(TEXT_SCHEME)
        paths = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        if not paths:
            raise DataError(f"corpus {corpus!r} matches no file; accepted: a pattern that does")
        return _read_text(paths, corpus=corpus)
    raise DataError(f"corpus is {corpus!r}; accepted: {EMBEDDED_CORPUS} or {TEXT_SCHEME}GLOB")


def is_held_out(document: Document, *, corpus: str, fraction: float) -> bool:
    """Whether the document belongs to evaluation instead of training.

    `embedded:sotu` holds out `HELD_OUT_ADDRESSES` whatever `fraction` says. Other corpora hold out
    about `fraction` of the documents by a hash of the text, so equal texts are on one side.
    """
    if corpus == EMBEDDED_CORPUS:
        return document.name in HELD_OUT_ADDRESSES
    digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def split_sentences(text: str) -> list[str]:
    """Sentences in order, stripped, none empty. A sentence never crosses a line."""
    sentences = (sentence.strip() for line in text.split("\n") for sentence in segment("en", line))
    return [sentence for sentence in sentences if sentence]


def _read_embedded() -> Iterator[Document]:
    packed = importlib.resources.files("bert_jax.data").joinpath("embedded", "sotu.jsonl.xz")
    with packed.open("rb") as stream, lzma.open(stream, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield Document(**json.loads(line))


def _read_text(paths: list[str], *, corpus: str) -> Iterator[Document]:
    empty = True
    for path in paths:
        for document in _read_text_file(path):
            empty = False
            yield document
    if empty:
        raise DataError(f"corpus {corpus!r} has {len(paths)} files, all blank; accepted: some text")


def _read_text_file(path: str) -> Iterator[Document]:
    lines, first = [], 1
    # In binary, because text mode would not say in which line the encoding is wrong.
    with open(path, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{number} holds byte 0x{raw[error.start]:02x} at column "
                    f"{error.start + 1}; accepted: UTF-8 text"
                ) from error
            if line.strip():
                if not lines:
                    first = number
                lines.append(line)
            elif lines:
                yield Document(f"{path}:{first}", "\n".join(lines))
                lines = []
    if lines:
        yield Document(f"{path}:{first}", "\n".join(lines))
