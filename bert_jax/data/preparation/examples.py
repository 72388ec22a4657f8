"""Cuts documents into examples of the kind that `data.pairs` names.

References: RoBERTa, Liu et al. 2019, section 4.2 (DOC-SENTENCES); ALBERT, Lan et al. 2019,
section 3.1 (sentence order). For next-sentence pairs see `data/pairs.py`.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Literal

from bert_jax.data.pairs import Pair, build_pairs

Sentences = Sequence[Sequence[int]]


def build_examples(
    documents: Sequence[Sentences],
    *,
    kind: Literal["next_sentence", "sentence_order", "none"],
    sequence_length: int,
    dupe_factors: Sequence[int],
    short_sequence_probability: float,
    rng: random.Random,
) -> list[Pair]:
    """Cuts document i (sentences of token ids) into examples `dupe_factors[i]` times.

    If `kind` is 'next_sentence', `build_pairs` makes the examples. If it is 'none', an example
    holds consecutive sentences that fit into a row. If it is 'sentence_order', sentences that fill
    a row are divided into A and B, and excess tokens are removed; a single sentence becomes a text
    without a label. A sentence longer than a row is cut. When a document is cut again, its first
    example has a random length, so the later examples start at other places than before.
    """
    if kind == "next_sentence":
        return build_pairs(
            documents,
            sequence_length=sequence_length,
            dupe_factors=dupe_factors,
            short_sequence_probability=short_sequence_probability,
            rng=rng,
        )
    max_tokens = sequence_length - (3 if kind == "sentence_order" else 2)
    examples = []
    for visit in range(max(dupe_factors, default=0)):
        for document, times in zip(documents, dupe_factors, strict=True):
            if visit >= times:
                continue
            sentences = _pieces(document, longest=max_tokens)
            length = max_tokens
            if rng.random() < short_sequence_probability:
                length = rng.randint(2, max_tokens)
            first_length = rng.randint(2, length) if visit else length
            lengths = chain([first_length], repeat(length))
            if kind == "none":
                examples += [Pair(_join(run), [], 0) for run in _runs_within(sentences, lengths)]
            else:
                examples += [
                    _ordered_pair(run, max_tokens=max_tokens, rng=rng)
                    for run in _runs_that_reach(sentences, lengths)
                ]
    return examples


def _pieces(sentences: Sentences, *, longest: int) -> list[Sequence[int]]:
    return [
        sentence[start : start + longest]
        for sentence in sentences
        for start in range(0, len(sentence), longest)
    ]


def _runs_within(sentences: Sentences, lengths: Iterator[int]) -> Iterator[Sentences]:
    """Yields consecutive sentences: as many as fit into `next(lengths)` tokens, at least one."""
    start, tokens, length = 0, 0, next(lengths)
    for end, sentence in enumerate(sentences):
        if end > start and tokens + len(sentence) > length:
            yield sentences[start:end]
            start, tokens, length = end, 0, next(lengths)
        tokens += len(sentence)
    if start < len(sentences):
        yield sentences[start:]


def _runs_that_reach(sentences: Sentences, lengths: Iterator[int]) -> Iterator[Sentences]:
    """Yields consecutive sentences: as many as needed for `next(lengths)` tokens, or the rest."""
    start, tokens, length = 0, 0, next(lengths)
    for end, sentence in enumerate(sentences, start=1):
        tokens += len(sentence)
        if tokens >= length or end == len(sentences):
            yield sentences[start:end]
            start, tokens, length = end, 0, next(lengths)


def _ordered_pair(run: Sentences, *, max_tokens: int, rng: random.Random) -> Pair:
    """Divides sentences at a random place into A and B; swaps A and B with probability 1/2.

    If there is only one sentence, it becomes a single text without a label.
    """
    if len(run) == 1:
        return Pair(_join(run), [], 0)
    middle = rng.randint(1, len(run) - 1)
    sides = _join(run[:middle]), _join(run[middle:])
    label = int(rng.random() < 0.5)
    # The texts are shortened after the swap, so the cut does not reveal the label.
    a, b = reversed(sides) if label else sides
    b_length = min(len(b), max(max_tokens // 2, max_tokens - len(a)))
    a_length = min(len(a), max_tokens - b_length)
    return Pair(_shorten(a, a_length, rng=rng), _shorten(b, b_length, rng=rng), label)


def _shorten(text: list[int], length: int, *, rng: random.Random) -> list[int]:
    """Removes tokens until `length` are left, each from the front or end with probability 1/2."""
    excess = len(text) - length
    start = rng.getrandbits(excess).bit_count()
    return text[start : start + length]


def _join(sentences: Sentences) -> list[int]:
    return [token_id for sentence in sentences for token_id in sentence]
