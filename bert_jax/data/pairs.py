"""Documents -> sentence pairs for next-sentence prediction, by the published recipe.

References: Devlin et al. 2018, section 3.1 and appendix A.2; `create_pretraining_data.py` of
github.com/google-research/bert.
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
    """Token ids of texts A and B, without special tokens; B is empty for a single text."""

    a: Sequence[int] | np.ndarray
    b: Sequence[int] | np.ndarray
    label: int
    """0 where B follows A in its document, 1 where B is random or A follows B."""


def build_pairs(
    documents: Sequence[Sequence[Sequence[int]]],
    *,
    sequence_length: int,
    dupe_factor: int,
    short_sequence_probability: float,
    rng: random.Random,
) -> list[Pair]:
    """Cuts documents (sentences of token ids) into pairs, each document `dupe_factor` times.

    Both sides of a pair hold a token at least and together at most `sequence_length - 3`. A random
    B comes from another of these documents; where ten draws find none (with a single document
    always) it comes from the same one, and is labelled 0 if it happens to be what follows A.
    """
    documents = [[sentence for sentence in document if sentence] for document in documents]
    documents = [document for document in documents if document]
    max_tokens = sequence_length - 3  # [CLS] A [SEP] B [SEP]
    pairs = []
    for _ in range(dupe_factor):
        for index in range(len(documents)):
            target_length = max_tokens
            if rng.random() < short_sequence_probability:
                target_length = rng.randint(2, max_tokens)
            pairs += _pairs_of_document(
                documents, index, target_length=target_length, max_tokens=max_tokens, rng=rng
            )
    return pairs


def _pairs_of_document(
    documents: Sequence[Sequence[Sequence[int]]],
    index: int,
    *,
    target_length: int,
    max_tokens: int,
    rng: random.Random,
) -> list[Pair]:
    document = documents[index]
    pairs = []
    start = 0
    while start < len(document):
        end = _end_of_chunk(document, start=start, target_length=target_length)
        a_end = start + 1 if end - start == 1 else rng.randint(start + 1, end - 1)
        a = _join(document[start:a_end])
        if end - start == 1 or rng.random() < 0.5:
            other = documents[_draw_other(index, count=len(documents), rng=rng)]
            b_start = rng.randint(0, len(other) - 1)
            b_end = _end_of_chunk(other, start=b_start, target_length=target_length - len(a))
            b = _join(other[b_start:b_end])
            label = 0 if other is document and b_start == a_end else 1
            start = a_end  # the rest of the chunk was not used: put it back
        else:
            b, label = _join(document[a_end:end]), 0
            start = end
        a, b = _truncate(a, b, max_tokens=max_tokens, rng=rng)
        pairs.append(Pair(a, b, label))
    return pairs


def _end_of_chunk(document: Sequence[Sequence[int]], *, start: int, target_length: int) -> int:
    """End of the shortest run of sentences from `start` that reaches the target, or the text's."""
    length = 0
    for end in range(start, len(document)):
        length += len(document[end])
        if length >= target_length:
            return end + 1
    return len(document)


def _draw_other(index: int, *, count: int, rng: random.Random) -> int:
    """A random index that differs from `index`, if ten draws find one."""
    drawn = index
    for _ in range(10):
        drawn = rng.randint(0, count - 1)
        if drawn != index:
            break
    return drawn


def _join(sentences: Sequence[Sequence[int]]) -> list[int]:
    return [token_id for sentence in sentences for token_id in sentence]


def _truncate(
    a: list[int], b: list[int], *, max_tokens: int, rng: random.Random
) -> tuple[list[int], list[int]]:
    """Shortens the longer text, at its front or its end by chance, until both fit together."""
    kept_a, kept_b = deque(a), deque(b)
    while len(kept_a) + len(kept_b) > max_tokens:
        longer = kept_a if len(kept_a) > len(kept_b) else kept_b
        if rng.random() < 0.5:
            longer.popleft()
        else:
            longer.pop()
    return list(kept_a), list(kept_b)
