"""Texts -> rows of token ids -> batches of one shape, in an order that has an address."""

from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.data.tokenizers import Tokenizer
from bert_jax.tasks.family import EncoderInput, Family, Row, TaskBatch


def lay_out_texts(
    first: list[int], second: list[int] | None, *, max_length: int, tokenizer: Tokenizer
) -> EncoderInput:
    """Returns [CLS] A [SEP], or [CLS] A [SEP] B [SEP]; the longer text is cut at its end.

    Cut as `_truncate_seq_pair` of google-research/bert's run_classifier.py: a token at a time, of
    the second where both are as long.
    """
    a, b = len(first), len(second or ())
    room = max_length - (2 if second is None else 3)
    while a + b > room:
        if a > b:
            a -= 1
        else:
            b -= 1
    ids = [tokenizer.cls_id, *first[:a], tokenizer.sep_id]
    segments = [0] * len(ids)
    if second is not None:
        ids += [*second[:b], tokenizer.sep_id]
        segments += [1] * (b + 1)
    return EncoderInput(ids, segments)


def row_length(rows: Sequence[Row]) -> int:
    """Returns the longest row's length, rounded up to a multiple of 8."""
    longest = max(len(one.token_ids) for row in rows for one in row.inputs)
    return -(-longest // 8) * 8


def stack(
    rows: Sequence[Row], *, family: Family, batch_size: int, length: int, pad_id: int
) -> TaskBatch:
    """Returns a batch of these rows and of fillers that weigh 0."""
    choices = max(len(row.inputs) for row in rows)
    token_ids = np.full((batch_size, choices, length), pad_id, np.int32)
    segment_ids = np.zeros((batch_size, choices, length), np.int32)
    pack_ids = np.zeros((batch_size, choices, length), np.int32)
    label_shape = {"number": (), "token": (length,), "span": (2,)}[family.row_label]
    weight_shape = (length,) if family.row_label == "token" else ()
    labels = np.zeros((batch_size, *label_shape), family.label_dtype)
    weights = np.zeros((batch_size, *weight_shape), np.float32)
    for i, row in enumerate(rows):
        for choice, one in enumerate(row.inputs):
            token_ids[i, choice, : len(one.token_ids)] = one.token_ids
            segment_ids[i, choice, : len(one.token_ids)] = one.segment_ids
            pack_ids[i, choice, : len(one.token_ids)] = 1
        if family.row_label == "token":
            labels[i, : len(row.label)] = row.label
            weights[i, : len(row.weight)] = row.weight
        else:
            labels[i], weights[i] = row.label, row.weight
    return TaskBatch(token_ids, segment_ids, pack_ids, labels, weights)


def shuffled(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch's rows, a function of (seed, epoch) alone."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def chunks(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Returns `size` rows at a time, at the end fewer."""
    for start in range(0, len(rows), size):
        yield list(rows[start : start + size])
