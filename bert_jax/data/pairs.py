"""Cuts documents into sentence pairs for next-sentence prediction, by the published recipe.

References: Devlin et al. 2018, section 3.1 and appendix A.2; `create_pretraining_data.py` of
github.com/google-research/bert.
"""

import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
    """Token ids of texts A and B, without special tokens; B is empty for a single text."""

    a: Sequence[int] | np.ndarray
    b: Sequence[int] | np.ndarray
    label: int
    """0 if B follows A in its document; 1 if B is random or A follows B."""


@dataclass(frozen=True)
class _Document:
    tokens: list[int]
    starts: list[int]
    """Position of each sentence's first token. The last entry is the number of tokens."""


def build_pairs(
    documents: Sequence[Sequence[Sequence[int]]],
    *,
    sequence_length: int,
    dupe_factors: Sequence[int],
    short_sequence_probability: float,
    rng: random.Random,
) -> list[Pair]:
    """Cuts document i, a list of sentences, into pairs, and repeats this `dupe_factors[i]` times.

    A and B hold at least one token each, and at most `sequence_length - 3` tokens together. A
    random B comes from another document. If ten draws find no other document, B comes from the
    same document. If such a B happens to follow A, the label is 0.
    """
    flat = [
        (_flatten(document), times) for document, times in zip(documents, dupe_factors, strict=True)
    ]
    flat = [(document, times) for document, times in flat if document.tokens]
    joined = [document for document, _ in flat]
    max_tokens = sequence_length - 3  # [CLS] A [SEP] B [SEP]
    pairs = []
    for visit in range(max((times for _, times in flat), default=0)):
        for index, (_, times) in enumerate(flat):
            if visit >= times:
                continue
            target_length = max_tokens
            if rng.random() < short_sequence_probability:
                target_length = 2 + _below(max_tokens - 1, rng)
            pairs += _pairs_of_document(
                joined, index, target_length=target_length, max_tokens=max_tokens, rng=rng
            )
    return pairs


def _flatten(document: Sequence[Sequence[int]]) -> _Document:
    sentences = [sentence for sentence in document if sentence]
    starts = list(accumulate(map(len, sentences), initial=0))
    return _Document(tokens=list(chain.from_iterable(sentences)), starts=starts)


def _pairs_of_document(
    documents: Sequence[_Document],
    index: int,
    *,
    target_length: int,
    max_tokens: int,
    rng: random.Random,
) -> list[Pair]:
    document = documents[index]
    starts = document.starts
    pairs = []
    start = 0
    while start < len(starts) - 1:
        end = _end_of_chunk(starts, start, target_length)
        a_end = start + 1 + (_below(end - start - 1, rng) if end - start > 1 else 0)
        if end - start == 1 or rng.random() < 0.5:
            other = documents[_draw_other(index, count=len(documents), rng=rng)]
            b_start = _below(len(other.starts) - 1, rng)
            a_length = starts[a_end] - starts[start]
            b_end = _end_of_chunk(other.starts, b_start, target_length - a_length)
            label = 0 if other is document and b_start == a_end else 1
            next_start = a_end  # the next chunk takes the sentences that were not used
        else:
            other, b_start, b_end, label = document, a_end, end, 0
            next_start = end
        a_first, a_last, b_first, b_last = _truncate(
            *(starts[start], starts[a_end], other.starts[b_start], other.starts[b_end]),
            max_tokens=max_tokens,
            rng=rng,
        )
        pairs.append(Pair(document.tokens[a_first:a_last], other.tokens[b_first:b_last], label))
        start = next_start
    return pairs


def _end_of_chunk(starts: list[int], start: int, target_length: int) -> int:
    """Returns the index of the sentence after a chunk that begins at sentence `start`.

    The chunk ends when it has `target_length` tokens or more, or at the end of the document.
    """
    end = bisect_left(starts, starts[start] + target_length, start + 1)
    return min(end, len(starts) - 1)


def _draw_other(index: int, *, count: int, rng: random.Random) -> int:
    """Draws an index until it differs from `index`, at most ten times; returns the last draw."""
    drawn = index
    for _ in range(10):
        drawn = _below(count, rng)
        if drawn != index:
            break
    return drawn


def _below(bound: int, rng: random.Random) -> int:
    """Draws like `rng.randrange(bound)`, in a third of the time. Each pair needs several draws."""
    bits = bound.bit_length()
    drawn = rng.getrandbits(bits)
    while drawn >= bound:
        drawn = rng.getrandbits(bits)
    return drawn


def _truncate(
    a_start: int, a_end: int, b_start: int, b_end: int, *, max_tokens: int, rng: random.Random
) -> tuple[int, int, int, int]:
    """Removes tokens from the longer text, at a random end, until `max_tokens` are left.

    If both texts are equally long, the token is removed from B.
    """
    draw = rng.random
    for _ in range(a_end - a_start + b_end - b_start - max_tokens):
        from_front = draw() < 0.5
        if a_end - a_start > b_end - b_start:
            if from_front:
                a_start += 1
            else:
                a_end -= 1
        elif from_front:
            b_start += 1
        else:
            b_end -= 1
    return a_start, a_end, b_start, b_end
