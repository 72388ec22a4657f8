"""Sentence order and full sentences: nothing is lost, nothing crosses a document."""

import math
import random

import pytest

from bert_jax.data.examples import build_examples
from bert_jax.data.pairs import build_pairs


def numbered_documents(sentence_counts, *, sentence_length):
    """Documents in which every token of the corpus has an id of its own, in reading order."""
    ids = iter(range(10**9))
    return [
        [[next(ids) for _ in range(sentence_length)] for _ in range(count)]
        for count in sentence_counts
    ]


def build(documents, kind, **changes):
    settings = {
        "sequence_length": 32,
        "dupe_factor": 1,
        "short_sequence_probability": 0.1,
        "rng": random.Random(7),
    }
    return build_examples(documents, kind=kind, **(settings | changes))


def in_order(example):
    """The text of an example as it stood in its document."""
    a, b, label = example
    return [*b, *a] if label else [*a, *b]


def test_next_sentence_pairs_are_those_of_the_published_recipe():
    documents = numbered_documents([12, 5, 30, 1], sentence_length=4)
    settings = {"sequence_length": 32, "dupe_factor": 3, "short_sequence_probability": 0.1}
    expected = build_pairs(documents, rng=random.Random(7), **settings)
    assert build(documents, "next_sentence", dupe_factor=3) == expected


@pytest.mark.parametrize(("kind", "longest"), [("sentence_order", 29), ("none", 30)])
@pytest.mark.parametrize("sentence_length", [1, 4, 40])
def test_every_visit_covers_the_text_once_and_in_order(kind, longest, sentence_length):
    documents = numbered_documents([1, 2, 17, 60, 3], sentence_length=sentence_length)
    total = 83 * sentence_length
    examples = build(documents, kind, dupe_factor=4, short_sequence_probability=0.3)
    texts = [in_order(example) for example in examples]
    assert [token for text in texts for token in text] == list(range(total)) * 4
    ends = {document[-1][-1] + 1 for document in documents}
    for text in texts:
        assert 1 <= len(text) <= longest
        assert not ends.intersection(text[1:]), "a text crosses documents"
        if sentence_length < longest:
            assert len(text) % sentence_length == 0, "a sentence is cut"


def test_full_sentences_are_one_text_filled_to_the_length():
    documents = numbered_documents([1000], sentence_length=3)
    examples = build(documents, "none", short_sequence_probability=0.0)
    assert all(not example.b and example.label == 0 for example in examples)
    assert all(len(example.a) == 30 for example in examples)


def test_short_sequences_are_drawn_for_a_visit_of_a_document():
    documents = numbered_documents([200] * 40, sentence_length=1)
    examples = build(documents, "none", short_sequence_probability=0.5)
    lengths = {}
    for example in examples:
        lengths.setdefault(example.a[0] // 200, set()).add(len(example.a))
    whole = sum(max(found) == 30 for found in lengths.values())
    assert 8 <= whole <= 33  # 20 of 40 throws of a coin, four deviations of 3.2
    assert all(len(found) <= 2 for found in lengths.values())  # the last one is what is left


def test_sides_are_whole_sentences_and_swapped_by_a_fair_coin():
    documents = numbered_documents([40] * 50, sentence_length=5)
    pairs = build(documents, "sentence_order", dupe_factor=10)
    for a, b, label in pairs:
        if not b:
            assert len(a) == 5 and label == 0, "one sentence has no order"
            continue
        assert a == list(range(a[0], a[0] + len(a))) and b == list(range(b[0], b[0] + len(b)))
        assert a[0] == b[-1] + 1 if label else b[0] == a[-1] + 1
        assert len(a) % 5 == len(b) % 5 == 0
    labelled = [pair for pair in pairs if pair.b]
    swapped = sum(pair.label for pair in labelled)
    assert abs(swapped - len(labelled) / 2) < 5 * math.sqrt(len(labelled) / 4)
    # Without a label are rests of documents and first texts that were drawn short.
    assert len(labelled) > 0.7 * len(pairs)


def test_neither_length_nor_side_tells_the_order():
    documents = numbered_documents([40] * 100, sentence_length=5)
    pairs = [pair for pair in build(documents, "sentence_order", dupe_factor=10) if pair.b]
    first_is_longer = {
        label: [len(a) > len(b) for a, b, found in pairs if found == label] for label in (0, 1)
    }
    shares = [sum(found) / len(found) for found in first_is_longer.values()]
    # The cut is uniform among sentences: five deviations of a difference of two shares.
    assert abs(shares[0] - shares[1]) < 5 * math.sqrt(0.25 * 2 / (len(pairs) / 2.2))


@pytest.mark.parametrize("kind", ["sentence_order", "none"])
def test_every_visit_cuts_elsewhere_and_a_seed_repeats(kind):
    documents = numbered_documents([300], sentence_length=3)
    settings = {"short_sequence_probability": 0.0}
    examples = build(documents, kind, dupe_factor=5, **settings)
    assert examples == build(documents, kind, dupe_factor=5, **settings)
    once = build(documents, kind, **settings)
    assert examples[: len(once)] == once
    starts = {}
    for visit, text in enumerate(map(in_order, examples)):
        starts.setdefault(text[0], []).append(visit)
    # Ten places to cut a text of ten sentences: were all visits cut alike, each start came 5 times.
    assert len(starts) > 2 * len(once)


@pytest.mark.parametrize("kind", ["sentence_order", "none"])
def test_empty_sentences_and_documents_are_left_out(kind):
    documents = numbered_documents([3, 4], sentence_length=3)
    with_gaps = [[[], *documents[0]], [documents[1][0], [], *documents[1][1:]]]
    assert build(with_gaps, kind) == build(documents, kind)
    assert build([[], [[]]], kind) == []
