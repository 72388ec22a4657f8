"""Describes the corpus that data are prepared from: files, sizes, SHA-256, weights, licences."""

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bert_jax.data.passport import (
    FORMAT_VERSION,
    CorpusDescription,
    Settings,
    check_same,
    read_prepared,
)
from bert_jax.data.sources.base import CorpusFile
from bert_jax.data.sources.corpora import Corpus
from bert_jax.data.sources.files import compression_of, sha256_of
from bert_jax.errors import DataError

INPUTS_FILE = "corpus.json"

_WHERE = ("path", "size", "builder_directory")
"""Fields of a file that describe its location, not how it is read."""


class Inputs(CorpusDescription):
    """The fields of `corpus.json` that code reads."""

    fingerprint: str
    settings: Settings


def describe_inputs(corpus: Corpus, *, threads: int) -> dict:
    """Describes the corpus. The `fingerprint` does not depend on the location of the files.

    Raises:
      OSError: a file cannot be read.
    """
    files = {file.path: file.size for source in corpus.sources for file in source.files}
    with ThreadPoolExecutor(threads) as pool:
        digests = dict(zip(files, pool.map(sha256_of, files), strict=True))
    sources = [
        {
            "spec": source.spec,
            "weight": source.weight,
            "licence": source.licence,
            "files": [
                {
                    "path": file.path,
                    "bytes": file.size,
                    "sha256": digests[file.path],
                    "compression": compression_of(file.path),
                    "read_as": _read_as(file),
                }
                for file in source.files
            ],
        }
        for source in corpus.sources
    ]
    content = [
        [source["weight"], [[file["sha256"], file["read_as"]] for file in source["files"]]]
        for source in sources
    ]
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {
        "format_version": FORMAT_VERSION,
        "spec": corpus.spec,
        "fingerprint": fingerprint,
        "sources": sources,
    }


def check_inputs(path: Path, inputs: dict, *, settings: dict) -> None:
    """Raises DataError if the file `path` describes other texts or settings than the arguments."""
    if not path.exists():
        return
    before = read_prepared(path, Inputs)
    if before["fingerprint"] == inputs["fingerprint"]:
        check_same(before["settings"], settings, where=str(path.parent))
        return
    accepted = "accepted: the same text, or another directory"
    old, new = _files(before), _files(inputs)
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            raise DataError(
                f"{name} has changed since {path.parent} was made from it (SHA-256 "
                f"{old[name][:12]}, now {new[name][:12]}); {accepted}"
            )
    raise DataError(
        f"{path.parent} was made from {len(old)} files of {before['spec']}, not from the "
        f"{len(new)} files of {inputs['spec']}; {accepted}"
    )


def _files(inputs: dict) -> dict[str, str]:
    return {file["path"]: file["sha256"] for one in inputs["sources"] for file in one["files"]}


def _read_as(file: CorpusFile) -> dict:
    fields = dataclasses.asdict(file)  # pyright: ignore[reportArgumentType]
    return {"kind": type(file).__name__} | {
        name: value for name, value in fields.items() if name not in _WHERE
    }
