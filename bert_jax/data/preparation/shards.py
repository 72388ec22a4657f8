"""Shard tasks: each encodes a slice of the corpus and writes one file of rows.

docs/data.md lists the files of a directory of prepared data.
"""

import gc
import random
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np
from jaxtyping import Int

from bert_jax.data import records
from bert_jax.data.config import DataConfig
from bert_jax.data.passport import FORMAT_VERSION, Counts, ShardSummary, Skipped, read_prepared
from bert_jax.data.preparation.examples import build_examples
from bert_jax.data.preparation.packing import pack_pairs, row_length
from bert_jax.data.preparation.text_counts import count_text
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources import corpora
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.files import Count, FileName, sha256_of_file, write_array, write_json

BLOCK_TOKENS = 2**20
"""Approximate number of tokens in a block of documents (about 5 MB of English). Only one block is
in memory at a time. Random texts B are drawn, pairs packed and rows shuffled within a block."""

MOST_SKIPPED = 1000
"""Most skipped records that are listed for a shard."""


class _Excluded(TypedDict):
    train: Count
    eval: Count


class ShardStatistics(ShardSummary, Counts):
    """The fields of a shard's statistics that code reads."""

    documents_file: FileName
    documents_sha256: str
    unknown_tokens: Count
    excluded_documents: _Excluded
    lengths: list[Count]
    text: NotRequired[dict[str, Count]]
    skipped: NotRequired[Skipped]
    token_counts: list[Count]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Encodes one shard. The shard's bytes depend only on these fields and the text they name."""

    split: Literal["train", "eval"]
    index: int
    """Number of the shard in its split, from 0."""
    config: DataConfig
    tokenizer: Tokenizer
    corpus_slice: corpora.Slice
    """A slice of the corpus for training, or of the held-out documents for evaluation."""
    settings: dict
    """Settings that all files of the directory share, as JSON."""
    excluded: frozenset[int] = frozenset()
    """Hashes of the documents that the exclusion drops, as the survey found them."""

    @property
    def size(self) -> int:
        return corpora.size_of(self.corpus_slice)

    @property
    def path(self) -> Path:
        count = self.config.train_shards if self.split == "train" else 1
        name = f"{self.split}-{self.index:05}-of-{count:05}.array_record"
        return Path(self.config.directory) / name

    @property
    def statistics_path(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def documents_path(self) -> Path:
        return self.path.with_suffix(".documents.npy")

    def run(self) -> dict:
        """Writes the shard and then its statistics; returns the statistics without token counts."""
        statistics = _Statistics(self)
        gc.disable()  # collection takes 1/6 of the time; a block has 100,000 lists and no cycle
        try:
            digest = records.write_records(_records(self, statistics), path=self.path)
        finally:
            gc.enable()
        hashes = np.sort(np.array(statistics.hashes, np.uint64))
        write_array(hashes, path=self.documents_path)
        result = {
            "format_version": FORMAT_VERSION,
            **self.settings,
            "file": self.path.name,
            "sha256": digest,
            "documents_file": self.documents_path.name,
            "documents_sha256": sha256_of_file(self.documents_path),
            **statistics.to_json(),
        }
        write_json(self.statistics_path, result)
        return _without_token_counts(result)

    def finished(self) -> dict | None:
        """Returns the statistics if they match the files of the shard, otherwise None."""
        paths = {"sha256": self.path, "documents_sha256": self.documents_path}
        if not all(path.exists() for path in (self.statistics_path, *paths.values())):
            return None
        statistics = read_prepared(self.statistics_path, ShardStatistics)
        whole = all(statistics[name] == sha256_of_file(path) for name, path in paths.items())
        return _without_token_counts(statistics) if whole else None

    def token_counts(self) -> Int[np.ndarray, "vocab"]:
        """Reads the token counts of a finished shard from its file."""
        statistics = read_prepared(self.statistics_path, ShardStatistics)
        return np.array(statistics["token_counts"], np.int64)


def _without_token_counts(statistics: dict) -> dict:
    return {name: value for name, value in statistics.items() if name != "token_counts"}


def tokenizer_settings(tokenizer: Tokenizer) -> dict:
    """Returns the part of a shard's settings that depends on the vocabulary."""
    return {
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        "record_dtype": records.record_dtype(tokenizer.vocab_size),
    }


class _Statistics:
    """Counts the content of a shard."""

    def __init__(self, task: ShardTask):
        self.counts: Counter[str] = Counter()
        self.excluded = {"train": 0, "eval": 0}
        self.token_counts = np.zeros(task.tokenizer.vocab_size, np.int64)
        self.unk_id = task.tokenizer.unk_id
        self.lengths = np.zeros(task.config.sequence_length + 1, np.int64)
        self.hashes = array("Q")
        self.skipped: list[str] = []
        self.text: Counter[str] = Counter()

    def to_json(self) -> dict:
        return {
            **{name: self.counts[name] for name in Counts.__annotations__},
            "tokens": int(self.token_counts.sum()),
            "unknown_tokens": int(self.token_counts[self.unk_id]),
            "excluded_documents": self.excluded,
            "lengths": self.lengths.tolist(),
            "text": self.text,
            "skipped": {"count": len(self.skipped), "records": self.skipped[:MOST_SKIPPED]},
            "token_counts": self.token_counts.tolist(),
        }


def _records(task: ShardTask, statistics: _Statistics) -> Iterator[bytes]:
    """Yields the encoded rows, block by block."""
    config = task.config
    packs = task.split == "train" and config.pairs_per_row > 1
    vocab_size = task.tokenizer.vocab_size
    dtype = records.record_dtype(vocab_size)
    rng = random.Random(f"{config.preparation_seed}/{task.split}/{task.index}")
    for documents, times in _blocks(task, statistics):
        pairs = build_examples(
            documents,
            kind=config.pairs,
            sequence_length=config.sequence_length,
            dupe_factors=times,
            short_sequence_probability=config.short_sequence_probability,
            rng=rng,
        )
        del documents  # early, so that two blocks are never in memory together
        statistics.counts["pairs"] += sum(len(pair.b) > 0 for pair in pairs)
        statistics.counts["random_pairs"] += sum(pair.label for pair in pairs)
        rows = [[pair] for pair in pairs]
        if packs:
            rows = pack_pairs(
                pairs, sequence_length=config.sequence_length, pairs_per_row=config.pairs_per_row
            )
        if task.split == "train":
            rng.shuffle(rows)
        statistics.counts["examples"] += len(rows)
        lengths = [sum(map(row_length, row)) for row in rows]
        statistics.counts["positions"] += sum(lengths)
        statistics.lengths += np.bincount(lengths, minlength=len(statistics.lengths))
        sizes = [len(row) for row in rows]
        encoded = records.encode_pairs(list(chain.from_iterable(rows)), dtype=dtype)
        del pairs, rows
        statistics.token_counts += records.count_tokens(encoded, dtype=dtype, vocab_size=vocab_size)
        parts = iter(encoded)
        del encoded
        yield from (b"".join(islice(parts, size)) for size in sizes)
        del parts


def _blocks(
    task: ShardTask, statistics: _Statistics
) -> Iterator[tuple[list[list[list[int]]], list[int]]]:
    """Yields each block: its documents as token ids, and how often each is cut into pairs."""
    encode = _warm(task.tokenizer).encode
    documents, times, tokens = [], [], 0
    for document, weight in corpora.read_slice(task.corpus_slice, skipped=statistics.skipped):
        used = 1
        if task.split == "train":
            held_out = corpora.is_held_out(document, fraction=task.config.held_out_fraction)
            if task.excluded and corpora.document_hash(document) in task.excluded:
                statistics.excluded["eval" if held_out else "train"] += 1
                continue
            if held_out:
                continue
            used = corpora.copies(document, times=task.config.dupe_factor * weight)
            if not used:
                continue
        if tokens >= BLOCK_TOKENS and len(documents) > 2:
            # The last document opens the next block: a document alone in a block has no partner.
            yield documents[:-1], times[:-1]
            documents, times = documents[-1:], times[-1:]
            tokens = sum(map(len, documents[0]))
        found = split_sentences(document.text, task.config.language)
        count_text(statistics.text, document.text, found, config=task.config)
        sentences = [encode(sentence) for sentence in found]
        statistics.hashes.append(corpora.document_hash(document))
        read = {"sentences": len(sentences), "bytes_read": len(document.text.encode())}
        statistics.counts.update(read, documents=1)
        documents.append(sentences)
        times.append(used)
        tokens += sum(map(len, sentences))
    if documents:
        yield documents, times


@lru_cache(maxsize=1)
def _warm(tokenizer: Tokenizer) -> Tokenizer:
    """Returns the previous task's tokenizer if it equals `tokenizer`: its word cache is filled."""
    return tokenizer
