"""Rows for inference: packs texts into rows of a few lengths, and lays them out in batches.

Attention does not cross texts, and positions restart at each [CLS], as in rows of packed pairs in
training. A row of the encoder has up to `model.max_positions` tokens, or half, a quarter, ... of
them, but not below 64. A batch has one row or `SLOTS` tokens. For 512 positions, eight programs
therefore serve all texts.

Longer rows would need less padding, but attention costs more in them. BERT with 6 layers of width
384 takes 1.16 times as long for a token in a row of 128 as in a row of 64, on a CPU.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from bert_jax.data.masking import BatchForm, Layout, lay_out
from bert_jax.data.pairs import Pair
from bert_jax.data.tokenizers.files import Tokenizer

SHORTEST_ROW = 64
SLOTS = 1024
"""Tokens of a batch, padding included. With more, arrays outgrow the caches of a CPU."""
SHORTEST_TEXT = 4
"""A row of n tokens holds at most n / 4 texts or pairs."""
WINDOW = 4096
"""Texts that are packed together. More would hardly save padding."""

Row = list[int]
"""Numbers of the texts or pairs in a row."""


class PackedBatch(NamedTuple):
    """Rows of texts or pairs, and the place of each."""

    numbers: Int[np.ndarray, "texts"]
    """Indices of the texts."""
    rows: Int[np.ndarray, "texts"]
    slots: Int[np.ndarray, "texts"]
    """Places in the row, from 0."""
    starts: Int[np.ndarray, "texts"]
    """Positions of the [CLS] tokens in the row."""
    layout: Layout
    """Arrays of the rows. Rows after the last text hold only padding."""

    def places(self) -> Iterator[tuple[int, int, int, int]]:
        """Yields (number, row, slot, start) of each text."""
        arrays = (self.numbers, self.rows, self.slots, self.starts)
        yield from zip(*(array.tolist() for array in arrays), strict=True)


def row_lengths(limit: int) -> list[int]:
    """Returns the lengths of rows for a model with `limit` positions, in ascending order."""
    lengths = [limit]
    while lengths[0] // 2 >= SHORTEST_ROW:
        lengths.insert(0, lengths[0] // 2)
    return lengths


def pack(tokens: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, Row]]:
    """Yields rows as (length, indices of texts), for texts of `tokens` tokens each.

    The longest text comes first. A text goes into the row whose free positions it fills best. If no
    row has room for it, it opens a row of the smallest sufficient length.

    References:
      Best-fit decreasing: Johnson et al. 1974, https://doi.org/10.1137/0203025
    """
    rows: list[tuple[int, Row]] = []
    by_room: list[list[tuple[int, Row]]] = [[] for _ in range(lengths[-1] + 1)]
    for number in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
        wanted = tokens[number]
        open_rows = next((found for found in by_room[wanted:] if found), None)
        if open_rows is None:
            length, row = next(length for length in lengths if length >= wanted), Row()
            rows.append((length, row))
            room = length
        else:
            length, row = open_rows.pop()
            room = length - sum(tokens[i] for i in row)
        row.append(number)
        if len(row) < texts_per_row(length):
            by_room[room - wanted].append((length, row))
    yield from rows


def texts_per_row(length: int) -> int:
    """Returns the largest number of texts or pairs in a row of `length` tokens."""
    return max(1, length // SHORTEST_TEXT)


def lay_out_batches(
    pairs: Iterable[Pair], *, limit: int, tokenizer: Tokenizer, single_text_separator: bool
) -> Iterator[PackedBatch]:
    """Yields batches of texts and pairs, each of at most `limit` tokens. Reads `pairs` in windows.

    Rows wait until there are enough for a whole batch. At the end, if there are rows for less than
    half a batch, each becomes a batch of its own.
    """
    waiting: dict[int, list[list[tuple[int, Pair]]]] = {n: [] for n in row_lengths(limit)}

    def form(length: int, rows: int) -> BatchForm:
        return BatchForm(
            batch_size=rows,
            sequence_length=length,
            tokenizer=tokenizer,
            single_text_separator=single_text_separator,
            pairs_per_row=texts_per_row(length),
        )

    numbered = enumerate(pairs)
    while window := list(islice(numbered, WINDOW)):
        tokens = [form(limit, 1).tokens([pair]) for _, pair in window]
        for length, row in pack(tokens, list(waiting)):
            waiting[length].append([window[i] for i in row])
            if len(waiting[length]) == (whole := max(1, SLOTS // length)):
                yield _batch(waiting[length], form(length, whole))
                waiting[length] = []
    for length, rows in waiting.items():
        whole = max(1, SLOTS // length)
        size = whole if len(rows) > whole // 2 else 1
        for start in range(0, len(rows), size):
            yield _batch(rows[start : start + size], form(length, size))


def _batch(rows: list[list[tuple[int, Pair]]], form: BatchForm) -> PackedBatch:
    layout = lay_out([[pair for _, pair in row] for row in rows], form=form)
    places = [(n, r, s) for r, row in enumerate(rows) for s, (n, _) in enumerate(row)]
    numbers, of_row, slots = np.array(places, np.int32).T
    return PackedBatch(numbers, of_row, slots, layout.cls_positions[of_row, slots], layout)
