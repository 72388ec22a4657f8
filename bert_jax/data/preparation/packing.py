"""Several pairs in a row.

Rows are packed when data are prepared, so that a row has an index and its masks an address.

Reference: packing by a histogram of lengths, Krell et al. 2021, https://arxiv.org/abs/2107.02027
"""

from collections.abc import Sequence

from bert_jax.data.pairs import Pair


def row_length(pair: Pair) -> int:
    """Tokens of a pair with its [CLS] and [SEP]."""
    return len(pair.a) + len(pair.b) + (3 if len(pair.b) else 2)


def pack_pairs(
    pairs: Sequence[Pair], *, sequence_length: int, pairs_per_row: int
) -> list[list[Pair]]:
    """Packs pairs into few rows, at most `pairs_per_row` in each.

    A row is the longest pair that is left and what fills it best: of equal fillings one that takes
    more pairs, of about equal lengths, for what is hard to place is a rest of short ones.
    """
    stock = _Stock(pairs, sequence_length)
    rows = []
    while stock.present:
        lengths = [stock.longest(sequence_length)]
        row = [stock.take(lengths[0])]
        room = sequence_length - lengths[0]
        while lengths := _filling(stock, room=room, slots=pairs_per_row - len(row)):
            row += map(stock.take, lengths)
            room -= sum(lengths)
        rows.append(row)
    return rows


class _Stock:
    """Pairs by their length, and which lengths there are as bits of a number.

    Bit n of `present` is set where there is a pair of length n, and bit `limit - n` of `mirrored`.
    """

    def __init__(self, pairs: Sequence[Pair], limit: int):
        self.limit = limit
        self.present = self.mirrored = 0
        self._pairs: list[list[Pair]] = [[] for _ in range(limit + 1)]
        for pair in reversed(pairs):
            self._pairs[row_length(pair)].append(pair)
        for length, found in enumerate(self._pairs):
            if found:
                self._flip(length)

    def take(self, length: int) -> Pair:
        pair = self._pairs[length].pop()
        if not self._pairs[length]:
            self._flip(length)
        return pair

    def longest(self, room: int) -> int:
        """The greatest length of at most `room`, or -1."""
        return (self.present & ((2 << room) - 1)).bit_length() - 1

    def longest_two(self, room: int) -> list[int]:
        """Two lengths with the greatest sum of at most `room`, as equal as they can be, or none."""
        for total in range(room, 1, -1):
            # Both x and total - x are there, and x is not the longer.
            shorter = (
                self.present & (self.mirrored >> (self.limit - total)) & ((2 << total // 2) - 1)
            )
            if total % 2 == 0 and len(self._pairs[total // 2]) == 1:
                shorter &= ~(1 << total // 2)
            if shorter:
                length = shorter.bit_length() - 1
                return [length, total - length]
        return []

    def _flip(self, length: int) -> None:
        self.present ^= 1 << length
        self.mirrored ^= 1 << (self.limit - length)


def _filling(stock: _Stock, *, room: int, slots: int) -> list[int]:
    """Lengths to put into the room next: none, one or two."""
    one = stock.longest(room)
    if one < 0 or not slots:
        return []
    if slots > 2 and (share := stock.longest(room // slots)) > 0:
        return [share]
    two = stock.longest_two(room) if slots > 1 else []
    return two if sum(two) >= one else [one]
