"""Batches of rows: their padded shape and the order of an epoch."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from bert_jax.tasks.families.family import Family, Row, TaskBatch

Item = TypeVar("Item")

BATCHES_OF_A_GROUP = 16
LENGTH_STEP = 16
"""Batches of rows of similar length are padded to multiples of this number of tokens, because each
padded length needs a compiled program of its own."""


def padded_length(rows: Sequence[Row], longest: int, *, multiple: int = 8) -> int:
    """Returns the largest row length, rounded up to a multiple of `multiple`; at most `longest`."""
    return min(-(-max(map(num_tokens, rows)) // multiple) * multiple, longest)


def num_tokens(row: Row) -> int:
    """Returns the length of a row's longest input."""
    return max(len(one.token_ids) for one in row.inputs)


def stack(
    rows: Sequence[Row], *, family: Family, batch_size: int, length: int, pad_id: int
) -> TaskBatch:
    """Returns a batch of `batch_size` rows; padding rows of weight 0 follow `rows`."""
    shape = (batch_size, max(len(row.inputs) for row in rows), length)
    token_ids = np.full(shape, pad_id, np.int32)
    segment_ids, pack_ids = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    label_shape = {"number": (), "token": (length,), "span": (2,)}[family.row_label]
    weight_shape = (length,) if family.row_label == "token" else ()
    labels = np.zeros((batch_size, *label_shape), family.label_dtype)
    weights = np.zeros((batch_size, *weight_shape), np.float32)
    for i, row in enumerate(rows):
        for choice, one in enumerate(row.inputs):
            within = (i, choice, slice(len(one.token_ids)))
            token_ids[within], segment_ids[within], pack_ids[within] = *one, 1
        within = (i, slice(len(row.label))) if family.row_label == "token" else i
        labels[within], weights[within] = row.label, row.weight
    return TaskBatch(token_ids, segment_ids, pack_ids, labels, weights)


def shuffled(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch's rows, which depends on (seed, epoch) alone."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def epoch_batches(
    rows: Sequence[Row], *, seed: int, epoch: int, size: int, by_length: bool
) -> Iterator[list[Row]]:
    """Returns the batches of an epoch; one batch may have fewer than `size` rows.

    With `by_length` a batch holds rows of similar length: the shuffled rows are cut into groups of
    16 batches, each group is sorted by length, and the batches are shuffled.
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
    """Returns lists of `size` items; the last may be shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
