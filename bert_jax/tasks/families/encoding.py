"""Texts -> rows of token ids -> batches of one shape, in an order that has an address."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.tasks.families.family import EncoderInput, Family, Row, TaskBatch

Item = TypeVar("Item")

BATCHES_OF_A_GROUP = 16
LENGTH_STEP = 16
"""Of batches whose rows were grouped by length: so few lengths, for each is a program."""


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


def row_length(rows: Sequence[Row], longest: int) -> int:
    """Returns the longest row's length, rounded up to a multiple of 8 or to `longest`."""
    return min(-(-max(map(num_tokens, rows)) // 8) * 8, longest)


def batch_length(rows: Sequence[Row], longest: int) -> int:
    """Returns the longest row's length, rounded up to one of few lengths up to `longest`."""
    return min(-(-max(map(num_tokens, rows)) // LENGTH_STEP) * LENGTH_STEP, longest)


def num_tokens(row: Row) -> int:
    """Returns the length of a row's longest input."""
    return max(len(one.token_ids) for one in row.inputs)


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


def epoch_batches(
    rows: Sequence[Row], *, seed: int, epoch: int, size: int, by_length: bool
) -> Iterator[list[Row]]:
    """Returns an epoch's batches, one of them smaller; `by_length` of rows of similar length.

    Then groups of 16 batches, drawn as without, are sorted by length, and the batches shuffled.
    """
    order = shuffled(len(rows), seed=seed, epoch=epoch).tolist()
    if by_length:
        groups = chunks(order, BATCHES_OF_A_GROUP * size)
        ordered = (sorted(group, key=lambda i: num_tokens(rows[i])) for group in groups)
        batches = [batch for group in ordered for batch in chunks(group, size)]
        batches = [batches[i] for i in shuffled(len(batches), seed=seed, epoch=epoch)]
    else:
        batches = chunks(order, size)
    for batch in batches:
        yield [rows[i] for i in batch]


def chunks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Returns `size` items at a time, at the end fewer."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
