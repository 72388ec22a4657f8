"""Summarizes the statistics of all shards for the passport of prepared data."""

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from bert_jax.data.config import DataConfig
from bert_jax.data.masking import BatchForm, masked_batch
from bert_jax.data.passport import Counts
from bert_jax.data.records import open_split
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.files import read_array

RANGE_DOCUMENTS = 2**22
"""Approximate number of documents whose hashes are compared at a time (32 MB)."""
MEASURED_ROWS = 2000
"""Number of training rows on which masks are measured (38,000 predictions at 128 tokens)."""


def summarize(directory: Path, *, training: Sequence[dict], evaluation: Sequence[dict]) -> dict:
    """Adds up the statistics of the shards and returns five fields of a passport.

    `text` holds shares of the letters, sentences and documents for training, or None if a shard was
    made before they were counted. `splits` holds the sums of each split. `shared_documents` counts
    texts that both splits have. `identical_shards` lists groups of files with the same bytes or the
    same documents. `skipped` counts the malformed records and lists up to 1,000 of each shard.
    """
    shards = {"train": training, "eval": evaluation}
    repeated, shared = _count_repeated(directory, shards)
    summaries = {}
    for split, of_split in shards.items():
        summaries[split] = _summary(of_split)
        summaries[split]["identical_documents"] = repeated[split]
        # Training tasks read the whole corpus, so they count the dropped documents of both splits.
        dropped = sum(shard["excluded_documents"][split] for shard in training)
        summaries[split]["excluded_documents"] = dropped
    skipped = [shard["skipped"] for shard in training if "skipped" in shard]
    return {
        "text": _text_rates(summaries["train"], [shard.get("text") for shard in training]),
        "skipped": {
            "count": sum(one["count"] for one in skipped),
            "records": [record for one in skipped for record in one["records"]],
        },
        "splits": summaries,
        "shared_documents": shared,
        "identical_shards": _identical([*evaluation, *training]),
    }


def measure_masking(passport: dict, config: DataConfig, tokenizer: Tokenizer) -> dict:
    """Masks the first training rows with seed 0 and the first step's rate; measures the shares.

    `rate` is the share of all tokens, [CLS] and [SEP] included, that are predicted. `mask_share`,
    `random_share` and `kept_share` are the shares of the predicted tokens that became [MASK],
    became another piece or stayed unchanged.
    """
    masking = config.masking.at(0.0)
    source = open_split(config.directory, passport, split="train")
    count = min(MEASURED_ROWS, len(source))
    rows = source.rows(range(count))
    form = BatchForm(
        batch_size=count,
        sequence_length=config.sequence_length,
        tokenizer=tokenizer,
        single_text_separator=config.single_text_separator,
        pairs_per_row=config.pairs_per_row,
    )
    addresses = [(0, index) for index in range(count)]
    batch = masked_batch(rows, form=form, addresses=addresses, seed=0, config=masking)
    predicted = batch.mask_weights > 0
    now = np.take_along_axis(batch.token_ids, batch.mask_positions, axis=1)[predicted]
    before = batch.mask_labels[predicted]
    is_mask, is_kept = now == tokenizer.mask_id, now == before
    return {
        "config": {"unit": masking.unit, "rate": masking.rate, "split": list(masking.split)},
        "rows": count,
        "rate": _rate(len(now), (batch.pack_ids > 0).sum()),
        "mask_share": _rate(is_mask.sum(), len(now)),
        "random_share": _rate((~is_mask & ~is_kept).sum(), len(now)),
        "kept_share": _rate(is_kept.sum(), len(now)),
    }


def _summary(shards: Sequence[dict]) -> dict:
    summary: dict = {name: sum(one[name] for one in shards) for name in Counts.__annotations__}
    unknown = sum(shard["unknown_tokens"] for shard in shards)
    return summary | {
        "shards": [
            {name: shard[name] for name in ("file", "sha256", "examples")} for shard in shards
        ],
        "lengths": np.sum([shard["lengths"] for shard in shards], axis=0).tolist(),
        "special_token_rate": _rate(summary["positions"] - summary["tokens"], summary["positions"]),
        "unknown_token_rate": _rate(unknown, summary["tokens"]),
        "random_pair_rate": _rate(summary["random_pairs"], summary["pairs"]),
    }


def _text_rates(train: dict, shards: Sequence[dict | None]) -> dict[str, float] | None:
    counts = [shard for shard in shards if shard is not None]
    if len(counts) < len(shards):
        return None

    def rate(part: str, whole: str) -> float:
        total = train[whole] if whole in train else sum(shard.get(whole, 0) for shard in counts)
        return _rate(sum(shard.get(part, 0) for shard in counts), total)

    return {
        "folded_letter_rate": rate("folded_letters", "letters"),
        "short_sentence_rate": rate("short_sentences", "sentences"),
        "short_document_rate": rate("short_documents", "documents"),
    }


def _count_repeated(
    directory: Path, shards: dict[str, Sequence[dict]]
) -> tuple[dict[str, int], int]:
    """Counts repeated documents in each split, and texts that occur in both splits.

    The files of hashes are sorted, so only one range of hashes is in memory at a time.
    """
    files = {
        split: [
            read_array(directory / shard["documents_file"], dtype=np.uint64) for shard in of_split
        ]
        for split, of_split in shards.items()
    }
    total = sum(len(hashes) for of_split in files.values() for hashes in of_split)
    ranges = 1 + total // RANGE_DOCUMENTS
    edges = np.array([(i << 64) // ranges for i in range(1, ranges)], np.uint64)
    repeated, shared = dict.fromkeys(files, 0), 0
    for i in range(ranges):
        distinct = []
        for split, of_split in files.items():
            cuts = ([0, *np.searchsorted(hashes, edges), len(hashes)] for hashes in of_split)
            parts = [
                hashes[cut[i] : cut[i + 1]] for hashes, cut in zip(of_split, cuts, strict=True)
            ]
            present = np.concatenate(parts)
            distinct.append(np.unique(present))
            repeated[split] += len(present) - len(distinct[-1])
        shared += len(reduce(np.intersect1d, distinct))
    return repeated, shared


def _identical(shards: Sequence[dict]) -> list[list[str]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for shard in shards:
        for name in ("sha256", "documents_sha256"):
            groups[shard[name]].add(shard["file"])
    found = {tuple(sorted(group)) for group in groups.values() if len(group) > 1}
    return [list(group) for group in sorted(found)]


def _rate(part: int | np.integer, whole: int | np.integer) -> float:
    """Returns `part / whole`, or 0 if `whole` is 0."""
    return round(float(part) / max(1, int(whole)), 6)
