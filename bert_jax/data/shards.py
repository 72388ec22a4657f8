"""Corpus -> shards of encoded pairs, and the passport that says what they are.

A directory of prepared data holds `tokenizer.json`; `train-00000-of-00008.array_record` and
`eval-00000-of-00001.array_record`, each with its statistics beside it under the same name and
`.json`; `token_counts.npy`, int64 [vocab_size], how often each token id stands in the training
records; and, written last, `passport.json`.

A record is little-endian uint16, or uint32 for a vocabulary of more than 65,536: the length of A,
the length of B, the label, then the ids of A and of B; the same again for each further pair of a
packed row.
"""

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from bert_jax.data.config import PREPARATION_FIELDS, DataConfig
from bert_jax.data.corpora import is_held_out, read_documents, split_sentences
from bert_jax.data.examples import build_examples
from bert_jax.data.packing import pack_pairs, row_length
from bert_jax.data.pairs import Pair
from bert_jax.data.passport import (
    FORMAT_VERSION,
    PASSPORT_FILE,
    TOKEN_COUNTS_FILE,
    check_same,
    read_json,
)
from bert_jax.data.tokenizers import Tokenizer, load_tokenizer, save_tokenizer
from bert_jax.errors import DataError
from bert_jax.files import write_json

_SUMS = (
    *("examples", "documents", "sentences", "tokens"),
    *("positions", "pairs", "random_pairs", "bytes_read"),
)


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """Everything that the bytes of one shard depend on, but for the corpus itself."""

    split: Literal["train", "eval"]
    index: int
    """Of the shard within its split, from 0."""
    config: DataConfig
    tokenizer: Tokenizer

    @property
    def count(self) -> int:
        """Shards of this split."""
        return self.config.train_shards if self.split == "train" else 1

    @property
    def path(self) -> Path:
        name = f"{self.split}-{self.index:05}-of-{self.count:05}.array_record"
        return Path(self.config.directory) / name

    @property
    def statistics_path(self) -> Path:
        return self.path.with_suffix(".json")

    def settings(self) -> dict:
        """What must agree for prepared files to be used together, as JSON."""
        return {
            "preparation": {name: getattr(self.config, name) for name in PREPARATION_FIELDS},
            "vocab_size": self.tokenizer.vocab_size,
            "tokenizer_fingerprint": self.tokenizer.fingerprint(),
            "record_dtype": record_dtype(self.tokenizer.vocab_size),
        }


def record_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    return "uint16" if vocab_size <= 2**16 else "uint32"


def encode_record(pair: Pair, *, dtype: str) -> bytes:
    values = [len(pair.a), len(pair.b), pair.label, *pair.a, *pair.b]
    return np.array(values, _little_endian(dtype)).tobytes()


def _little_endian(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def prepare_data(
    config: DataConfig,
    *,
    tokenizer: Tokenizer,
    workers: int,
    on_shard_done: Callable[[dict], None],
) -> dict:
    """Writes `config.directory` and returns its passport; the bytes do not depend on `workers`.

    Shards that an earlier run with the same settings finished are kept. `on_shard_done` is called
    with the statistics of each shard, of kept ones too.

    Raises:
      DataError: the directory holds files made with other settings (nothing is touched then), the
        corpus cannot be read, or it has too few documents.
    """
    directory = Path(config.directory)
    tasks = [ShardTask(split="eval", index=0, config=config, tokenizer=tokenizer)] + [
        ShardTask(split="train", index=index, config=config, tokenizer=tokenizer)
        for index in range(config.train_shards)
    ]
    _check_unmixed(directory, tasks[0])
    statistics = {}
    for task in tasks:
        if (finished := _read_finished(task)) is not None:
            statistics[task.path.name] = finished
            on_shard_done(finished)
    missing = [task for task in tasks if task.path.name not in statistics]
    if missing:
        _check_corpus(config)
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "tokenizer.json").exists():
        save_tokenizer(tokenizer, directory)
    for written in _write_shards(missing, workers=workers):
        statistics[written["file"]] = written
        on_shard_done(written)

    by_split = {"train": [], "eval": []}
    for task in tasks:
        by_split[task.split].append(statistics[task.path.name])
    token_counts = np.sum([shard["token_counts"] for shard in by_split["train"]], axis=0)
    _save_array(token_counts.astype(np.int64), path=directory / TOKEN_COUNTS_FILE)
    passport = {"format_version": FORMAT_VERSION, **tasks[0].settings()}
    passport["splits"] = {split: _summary(shards) for split, shards in by_split.items()}
    write_json(directory / PASSPORT_FILE, passport)
    return passport


def _write_shards(tasks: Sequence[ShardTask], *, workers: int) -> Iterator[dict]:
    """Statistics of each shard, as they are finished."""
    if workers == 1:
        yield from map(write_shard, tasks)
        return
    # Spawned and not forked: the parent may hold threads of JAX.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(write_shard, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise DataError(
                f"a worker of {workers} died without an error, as for want of memory; run the "
                "command again with fewer workers: finished shards are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def write_shard(task: ShardTask) -> dict:
    """Writes the shard and then its statistics, which it returns.

    Raises:
      DataError: the corpus cannot be read.
    """
    config, tokenizer = task.config, task.tokenizer
    documents = []
    bytes_read = 0
    for text in _shard_texts(task):
        bytes_read += len(text.encode())
        documents.append([tokenizer.encode(sentence) for sentence in split_sentences(text)])
    rng = random.Random(f"{config.preparation_seed}/{task.split}/{task.index}")
    pairs = build_examples(
        documents,
        kind=config.pairs,
        sequence_length=config.sequence_length,
        dupe_factor=config.dupe_factor if task.split == "train" else 1,
        short_sequence_probability=config.short_sequence_probability,
        rng=rng,
    )
    rows = [[pair] for pair in pairs]
    if task.split == "train":
        if config.pairs_per_row > 1:
            rows = pack_pairs(
                pairs,
                sequence_length=config.sequence_length,
                pairs_per_row=config.pairs_per_row,
            )
        rng.shuffle(rows)
    counts = Counter()
    for pair in pairs:
        counts.update(pair.a)
        counts.update(pair.b)

    statistics = {
        "format_version": FORMAT_VERSION,
        **task.settings(),
        "file": task.path.name,
        "sha256": _write_records(rows, task=task),
        "examples": len(rows),
        "documents": len(documents),
        "sentences": sum(map(len, documents)),
        "tokens": counts.total(),
        "positions": sum(map(row_length, pairs)),
        "pairs": sum(len(pair.b) > 0 for pair in pairs),
        "random_pairs": sum(pair.label for pair in pairs),
        "bytes_read": bytes_read,
        "token_counts": [counts[token_id] for token_id in range(tokenizer.vocab_size)],
    }
    write_json(task.statistics_path, statistics)
    return statistics


def _shard_texts(task: ShardTask) -> Iterator[str]:
    """Every `count`-th document of the split, from number `index` on."""
    in_split = (
        text for text, held_out in _read_texts(task.config) if held_out == (task.split == "eval")
    )
    return islice(in_split, task.index, None, task.count)


def training_texts(config: DataConfig) -> Iterator[str]:
    """Texts that are not held out."""
    return (text for text, held_out in _read_texts(config) if not held_out)


def _read_texts(config: DataConfig) -> Iterator[tuple[str, bool]]:
    """Every document and whether it is held out."""
    for document in read_documents(config.corpus):
        yield (
            document.text,
            is_held_out(document, corpus=config.corpus, fraction=config.held_out_fraction),
        )


def _check_corpus(config: DataConfig) -> None:
    """Reads all of it once, so that what is wrong with it shows before anything is written."""
    documents = Counter(held_out for _, held_out in _read_texts(config))
    if not documents[True]:
        raise DataError(
            f"data.held_out_fraction is {config.held_out_fraction}, which holds out none of the "
            f"{documents[False]} documents of {config.corpus}; accepted: a share that holds out one"
        )
    if documents[False] < config.train_shards:
        raise DataError(
            f"data.train_shards is {config.train_shards}, but {config.corpus} has "
            f"{documents[False]} documents for training and {documents[True]} held out; "
            "accepted: at most as many shards as documents for training"
        )


def _write_records(rows: Sequence[Sequence[Pair]], *, task: ShardTask) -> str:
    """Writes the file and returns its SHA-256."""
    dtype = record_dtype(task.tokenizer.vocab_size)
    temporary = task.path.with_name(task.path.name + ".tmp")
    writer = ArrayRecordWriter(str(temporary), "group_size:1")  # 1: single records can be read
    for row in rows:
        writer.write(b"".join(encode_record(pair, dtype=dtype) for pair in row))
    writer.close()
    digest = _sha256(temporary)
    os.replace(temporary, task.path)
    return digest


def _read_finished(task: ShardTask) -> dict | None:
    """Statistics of a shard whose file is as they say."""
    if not (task.statistics_path.exists() and task.path.exists()):
        return None
    statistics = read_json(task.statistics_path)
    return statistics if statistics["sha256"] == _sha256(task.path) else None


def _check_unmixed(directory: Path, task: ShardTask) -> None:
    wanted = task.settings()
    paths = [*sorted(directory.glob("*-of-*.json")), directory / PASSPORT_FILE]
    for path in filter(Path.exists, paths):
        check_same(read_json(path), wanted, where=str(path))
    if (directory / "tokenizer.json").exists():
        found = {"tokenizer_fingerprint": load_tokenizer(directory).fingerprint()}
        wanted = {"tokenizer_fingerprint": wanted["tokenizer_fingerprint"]}
        check_same(found, wanted, where=str(directory / "tokenizer.json"))


def _summary(shards: Sequence[dict]) -> dict:
    summary: dict = {name: sum(shard[name] for shard in shards) for name in _SUMS}
    summary["shards"] = [
        {name: shard[name] for name in ("file", "sha256", "examples")} for shard in shards
    ]
    return summary


def _save_array(array: np.ndarray, *, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as stream:
        np.save(stream, array)
    os.replace(temporary, path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
