"""Several pairs in a row, and records of such rows.

Rows are packed when data are prepared, so that a row has an index and its masks an address. The
record of a row is those of its pairs one after another.

Reference: best fit by a histogram of lengths, Krell et al. 2021, https://arxiv.org/abs/2107.02027
"""

from collections.abc import Iterable, Sequence

import numpy as np

from bert_jax.data.pairs import Pair


def row_length(pair: Pair) -> int:
    """Tokens of a pair with its [CLS] and [SEP]."""
    return len(pair.a) + len(pair.b) + (3 if len(pair.b) else 2)


def pack_pairs(
    pairs: Sequence[Pair], *, sequence_length: int, pairs_per_row: int
) -> list[list[Pair]]:
    """Packs pairs into few rows: the longest first, each where it leaves the least room.

    A row is open until it holds `pairs_per_row` pairs. Pairs of one length keep their order.
    """
    rows: list[list[Pair]] = []
    by_room: list[list[int]] = [[] for _ in range(sequence_length + 1)]
    open_rooms = 0  # bit r is set where by_room[r] has a row
    for pair in sorted(pairs, key=row_length, reverse=True):
        length = row_length(pair)
        fitting = open_rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                open_rooms ^= 1 << room
        else:
            room, row = sequence_length, len(rows)
            rows.append([])
        rows[row].append(pair)
        if len(rows[row]) < pairs_per_row:
            by_room[room - length].append(row)
            open_rooms |= 1 << (room - length)
    return rows


def decode_rows(records: Iterable[bytes], *, dtype: str) -> tuple[list[Pair], list[int]]:
    """The pairs of all records, ids as read-only arrays of `dtype`, and the record of each."""
    little_endian = np.dtype(dtype).newbyteorder("<")
    pairs, rows = [], []
    for row, record in enumerate(records):
        values = np.frombuffer(record, little_endian)
        end = 0
        while end < len(values):
            a_length, b_length, label = values[end : end + 3].tolist()
            a_end = end + 3 + a_length
            start, end = end + 3, a_end + b_length
            pairs.append(Pair(values[start:a_end], values[a_end:end], label))
            rows.append(row)
    return pairs, rows
