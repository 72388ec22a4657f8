"""Documents -> examples of the kind that `data.pairs` names.

References: RoBERTa, Liu et al. 2019, section 4.2 (DOC-SENTENCES); ALBERT, Lan et al. 2019,
section 3.1 (sentence order). For next-sentence pairs see `pairs`.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from bert_jax.data.pairs import Pair, build_pairs

Sentences = Sequence[Sequence[int]]


def build_examples(
    documents: Sequence[Sentences],
    *,
    kind: Literal["next_sentence", "sentence_order", "none"],
    sequence_length: int,
    dupe_factor: int,
    short_sequence_probability: float,
    rng: random.Random,
) -> list[Pair]:
    """Cuts documents (sentences of token ids) into examples, each document `dupe_factor` times.

    Single texts, and pairs but those of next sentences, are whole sentences of one document; a
    sentence that is too long for a row is cut into several. From the second time on a document's
    first example has a random length, so that the others are cut elsewhere.
    """
    if kind == "next_sentence":
        return build_pairs(
            documents,
            sequence_length=sequence_length,
            dupe_factor=dupe_factor,
            short_sequence_probability=short_sequence_probability,
            rng=rng,
        )
    max_tokens = sequence_length - (3 if kind == "sentence_order" else 2)
    examples = []
    for visit in range(dupe_factor):
        for document in documents:
            sentences = _pieces(document, longest=max_tokens)
            length = max_tokens
            if rng.random() < short_sequence_probability:
                length = rng.randint(2, max_tokens)
            first_length = rng.randint(2, length) if visit else length
            for chunk in _chunks(sentences, first_length=first_length, length=length):
                if kind == "sentence_order":
                    examples.append(_ordered_pair(chunk, rng=rng))
                else:
                    examples.append(Pair(_join(chunk), [], 0))
    return examples


def _pieces(sentences: Sentences, *, longest: int) -> list[Sequence[int]]:
    return [
        sentence[start : start + longest]
        for sentence in sentences
        for start in range(0, len(sentence), longest)
    ]


def _chunks(sentences: Sentences, *, first_length: int, length: int) -> Iterator[Sentences]:
    """Runs of sentences, as long as fit into the length; a longer sentence is one by itself."""
    start, tokens, limit = 0, 0, first_length
    for end, sentence in enumerate(sentences):
        if end > start and tokens + len(sentence) > limit:
            yield sentences[start:end]
            start, tokens, limit = end, 0, length
        tokens += len(sentence)
    if start < len(sentences):
        yield sentences[start:]


def _ordered_pair(chunk: Sentences, *, rng: random.Random) -> Pair:
    """Cuts between two sentences and swaps the sides by a fair coin; one sentence has no label."""
    if len(chunk) == 1:
        return Pair(_join(chunk), [], 0)
    cut = rng.randint(1, len(chunk) - 1)
    first, second = _join(chunk[:cut]), _join(chunk[cut:])
    return Pair(second, first, 1) if rng.random() < 0.5 else Pair(first, second, 0)


def _join(sentences: Sentences) -> list[int]:
    return [token_id for sentence in sentences for token_id in sentence]
