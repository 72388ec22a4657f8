"""Packing keeps every pair, exceeds no row, and fills rows almost completely."""

import random
from collections import Counter

import numpy as np
import pytest

from bert_jax.data.pairs import Pair, build_pairs
from bert_jax.data.preparation.packing import pack_pairs, row_length


def pairs_of_lengths(lengths):
    """Returns different pairs with these row lengths; every fourth pair is a single text."""
    return [
        Pair([n] * (length - 2), [], 0) if n % 4 == 0 else Pair([n], list(range(length - 4)), n % 2)
        for n, length in enumerate(lengths)
    ]


def as_key(pair):
    return tuple(map(int, pair.a)), tuple(map(int, pair.b)), pair.label


@pytest.mark.parametrize("pairs_per_row", [1, 2, 3, 4, 8])
def test_every_pair_is_in_one_row_and_no_row_is_too_long(pairs_per_row):
    rng = np.random.default_rng(0)
    pairs = pairs_of_lengths(rng.integers(5, 65, size=500))
    rows = pack_pairs(pairs, sequence_length=64, pairs_per_row=pairs_per_row)
    assert Counter(as_key(pair) for row in rows for pair in row) == Counter(map(as_key, pairs))
    for row in rows:
        assert 1 <= len(row) <= pairs_per_row
        assert sum(map(row_length, row)) <= 64
    assert rows == pack_pairs(pairs, sequence_length=64, pairs_per_row=pairs_per_row)
    assert (len(rows) == 500) == (pairs_per_row == 1)


@pytest.mark.parametrize(
    ("pairs_per_row", "lengths", "rows"),
    [
        # The best fit to 64 is 24 for 40, 29 for 30, and 9 for 20.
        (2, [20, 40, 24, 30, 9, 29], [[40, 24], [30, 29], [20, 9]]),
        # 40 leaves room for 24, which 24 alone, 6 + 18 or 11 + 13 fill.
        (3, [40, 24, 6, 18, 11, 13], [[40, 11, 13], [24, 6, 18]]),
        # A length that occurs once is not used twice.
        (3, [40, 12, 5], [[40, 5, 12]]),
        # Three equal shares of 30 come before one share and a longer pair.
        (4, [34, 10, 20, 10, 10], [[34, 10, 10, 10], [20]]),
        (5, [24, 10, 10, 10, 10, 60], [[60], [24, 10, 10, 10, 10]]),
    ],
)
def test_a_row_has_the_longest_pair_and_the_pairs_that_fit_best(pairs_per_row, lengths, rows):
    packed = pack_pairs(pairs_of_lengths(lengths), sequence_length=64, pairs_per_row=pairs_per_row)
    assert [[row_length(pair) for pair in row] for row in packed] == rows


def test_rows_of_512_are_at_least_0_985_full():
    """The recipe cuts the pairs from documents as short as articles and as long as books."""
    rng = np.random.default_rng(0)
    documents = [
        [[9] * int(n) for n in rng.integers(5, 50, size=size)]
        for size in np.rint(rng.lognormal(3.3, 0.7, size=600)).astype(int) + 1
    ]
    pairs = build_pairs(
        documents,
        sequence_length=512,
        dupe_factors=[5] * len(documents),
        short_sequence_probability=0.1,
        rng=random.Random(0),
    )
    tokens = sum(map(row_length, pairs))
    assert tokens / (len(pairs) * 512) < 0.9, "rows of one pair should leave something to gain"
    rows = pack_pairs(pairs, sequence_length=512, pairs_per_row=3)
    assert tokens / (len(rows) * 512) >= 0.985  # measured: 0.997
