"""Packs several pairs into a row.

Masks depend on the record index. Each row is therefore one record, packed before training.

Reference: packing by a histogram of lengths, Krell et al. 2021, https://arxiv.org/abs/2107.02027
"""

from collections.abc import Sequence

from bert_jax.data.pairs import Pair


def row_length(pair: Pair) -> int:
    """Returns the number of tokens of a pair, [CLS] and [SEP] included."""
    return len(pair.a) + len(pair.b) + (3 if len(pair.b) else 2)


def pack_pairs(
    pairs: Sequence[Pair], *, sequence_length: int, pairs_per_row: int
) -> list[list[Pair]]:
    """Packs pairs into few rows, at most `pairs_per_row` in each.

    Each row starts with the longest pair that is left. While k > 2 pairs may still be added, the
    next pair is the longest with at most 1/k of the row's free positions. Then the one or two pairs
    that fill the row best are added. Short pairs are thus spread over the rows.
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
    """The pairs that are not yet in a row, by length.

    If there is a pair of length n, bit n of `present` and bit `limit - n` of `mirrored` are set.
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
        """Returns the length of the longest pair of at most `room` tokens; -1 if there is none."""
        return (self.present & ((2 << room) - 1)).bit_length() - 1

    def longest_two(self, room: int) -> list[int]:
        """Returns the lengths of the two pairs that fill `room` tokens best, or [].

        Among choices with the same sum, it returns the two lengths with the smallest difference.
        """
        for total in range(room, 1, -1):
            # Bit x is set if lengths x and total - x exist and x is at most total / 2.
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
    """Returns the lengths of the next pairs for the row: no pair, one pair or two pairs."""
    one = stock.longest(room)
    if one < 0 or not slots:
        return []
    if slots > 2 and (share := stock.longest(room // slots)) > 0:
        return [share]
    two = stock.longest_two(room) if slots > 1 else []
    return two if sum(two) >= one else [one]
