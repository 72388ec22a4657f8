"""Examples for sentence order and for full sentences: documents, truncation and labels."""

import math
import random

import numpy as np
import pytest

from bert_jax.data.pairs import build_pairs
from bert_jax.data.preparation.examples import build_examples


def numbered_documents(sentence_counts, *, sentence_length):
    """Returns documents in which every token has its own id, in reading order."""
    ids = iter(range(10**9))
    return [
        [[next(ids) for _ in range(sentence_length)] for _ in range(count)]
        for count in sentence_counts
    ]


def build(documents, kind, **changes):
    settings = {
        "sequence_length": 32,
        "dupe_factors": [changes.pop("dupe_factor", 1)] * len(documents),
        "short_sequence_probability": 0.1,
        "rng": random.Random(7),
    }
    settings |= changes
    return build_examples(documents, kind=kind, **settings)


def test_next_sentence_pairs_equal_those_of_the_published_recipe():
    documents = numbered_documents([12, 5, 30, 1], sentence_length=4)
    settings = {"sequence_length": 32, "dupe_factors": [3] * 4, "short_sequence_probability": 0.1}
    expected = build_pairs(documents, rng=random.Random(7), **settings)
    assert build(documents, "next_sentence", dupe_factor=3) == expected


@pytest.mark.parametrize("kind", ["next_sentence", "sentence_order", "none"])
def test_each_document_is_visited_dupe_factor_times(kind):
    documents = numbered_documents([40, 40, 40], sentence_length=4)
    examples = build(documents, kind, dupe_factors=[0, 1, 3], short_sequence_probability=0.0)
    whose = [min(example.a) // 160 for example in examples]
    assert whose.count(0) == 0 < 2 * whose.count(1) < whose.count(2)
    if kind == "none":
        tokens = [token for example in examples for token in example.a]
        assert sorted(tokens) == sorted([*range(160, 320), *(3 * [*range(320, 480)])])


@pytest.mark.parametrize("sentence_length", [1, 4, 40])
def test_every_visit_covers_the_text_once_and_in_order(sentence_length):
    documents = numbered_documents([1, 2, 17, 60, 3], sentence_length=sentence_length)
    total = 83 * sentence_length
    examples = build(documents, "none", dupe_factor=4, short_sequence_probability=0.3)
    assert [token for example in examples for token in example.a] == list(range(total)) * 4
    ends = {document[-1][-1] + 1 for document in documents}
    for text, b, label in examples:
        assert 1 <= len(text) <= 30 and not b and label == 0
        assert not ends.intersection(text[1:]), "a text crosses documents"
        if sentence_length < 30:
            assert len(text) % sentence_length == 0, "a sentence is cut"


def test_full_sentences_fill_one_text_to_the_length():
    documents = numbered_documents([1000], sentence_length=3)
    examples = build(documents, "none", short_sequence_probability=0.0)
    assert all(not example.b and example.label == 0 for example in examples)
    assert all(len(example.a) == 30 for example in examples)


def test_short_sequences_are_drawn_once_for_each_visit():
    documents = numbered_documents([200] * 40, sentence_length=1)
    examples = build(documents, "none", short_sequence_probability=0.5)
    lengths = {}
    for example in examples:
        lengths.setdefault(example.a[0] // 200, set()).add(len(example.a))
    whole = sum(max(found) == 30 for found in lengths.values())
    assert 8 <= whole <= 33  # 40 coin flips: 20 expected, four deviations of 3.2
    assert all(len(found) <= 2 for found in lengths.values())  # the last text may be shorter


@pytest.mark.parametrize("sentence_length", [1, 5, 20, 29])
def test_a_and_b_are_contiguous_and_swapped_by_a_fair_coin(sentence_length):
    documents = numbered_documents([40] * 50, sentence_length=sentence_length)
    pairs = build(documents, "sentence_order", dupe_factor=10, short_sequence_probability=0.0)
    for a, b, label in pairs:
        assert 1 <= len(a) and len(a) + len(b) <= 29
        if not b:
            assert label == 0 and (a[-1] - a[0]) < sentence_length, "one sentence has no order"
            continue
        assert a == list(range(a[0], a[0] + len(a))) and b == list(range(b[0], b[0] + len(b)))
        assert a[0] > b[-1] if label else b[0] > a[-1]
        tokens_of_document = 40 * sentence_length
        assert a[0] // tokens_of_document == b[-1] // tokens_of_document
    labelled = [pair for pair in pairs if pair.b]
    if sentence_length == 29:
        assert not labelled
        return
    swapped = sum(pair.label for pair in labelled)
    assert abs(swapped - len(labelled) / 2) < 5 * math.sqrt(len(labelled) / 4)
    # Ends of documents and sequences drawn short have no label.
    assert len(labelled) > 0.8 * len(pairs)


def test_a_and_b_are_adjacent_without_truncation():
    # With sentences of one token, pairs reach the length exactly.
    documents = numbered_documents([1, 2, 17, 60, 3], sentence_length=1)
    pairs = build(documents, "sentence_order", dupe_factor=5)
    # So every visit covers the text once and in order.
    texts = [[*b, *a] if label else [*a, *b] for a, b, label in pairs]
    assert [token for text in texts for token in text] == list(range(83)) * 5


def test_the_longer_text_is_cut_at_either_end_by_fair_coins():
    documents = numbered_documents([2], sentence_length=50)
    settings = {"dupe_factor": 1, "short_sequence_probability": 0.0, "sequence_length": 63}
    fronts = []
    for seed in range(2000):
        (pair,) = build(documents, "sentence_order", rng=random.Random(seed), **settings)
        assert (len(pair.a), len(pair.b)) == (30, 30)
        fronts += [pair.a[0] % 50, pair.b[0] % 50]
    # 20 coin flips for each side: mean 10, deviation 2.24; five deviations of the mean.
    assert abs(np.mean(fronts) - 10) < 5 * 2.24 / math.sqrt(len(fronts))
    assert 1.9 < np.std(fronts) < 2.5


def test_neither_lengths_nor_cuts_reveal_the_order():
    documents = numbered_documents([40] * 100, sentence_length=5)
    pairs = [pair for pair in build(documents, "sentence_order", dupe_factor=10) if pair.b]
    clues = {
        "A is longer": lambda a, b: len(a) > len(b),
        "A starts within a sentence": lambda a, b: a[0] % 5 > 0,
        "A ends within a sentence": lambda a, b: a[-1] % 5 < 4,
        "B starts within a sentence": lambda a, b: b[0] % 5 > 0,
        "B ends within a sentence": lambda a, b: b[-1] % 5 < 4,
    }
    for name, clue in clues.items():
        found = {
            label: [clue(pair.a, pair.b) for pair in pairs if pair.label == label]
            for label in (0, 1)
        }
        shares = [sum(of_label) / len(of_label) for of_label in found.values()]
        # Five deviations of the difference of two shares, each from about half of the pairs.
        assert abs(shares[0] - shares[1]) < 5 * math.sqrt(0.25 * 2 / (len(pairs) / 2.2)), name
        assert 0 < shares[0] < 1, name


@pytest.mark.parametrize("kind", ["sentence_order", "none"])
def test_visits_are_cut_differently_and_a_seed_is_reproducible(kind):
    documents = numbered_documents([300], sentence_length=3)
    settings = {"short_sequence_probability": 0.0}
    examples = build(documents, kind, dupe_factor=5, **settings)
    assert examples == build(documents, kind, dupe_factor=5, **settings)
    once = build(documents, kind, **settings)
    assert examples[: len(once)] == once
    starts = {}
    for visit, example in enumerate(examples):
        starts.setdefault(min([*example.a, *example.b]), []).append(visit)
    # A text of ten sentences can start at ten places. If all 5 visits were cut at the same
    # places, each start would occur 5 times.
    assert len(starts) > 2 * len(once)


@pytest.mark.parametrize("kind", ["sentence_order", "none"])
def test_empty_sentences_and_documents_are_left_out(kind):
    documents = numbered_documents([3, 4], sentence_length=3)
    with_gaps = [[[], *documents[0]], [documents[1][0], [], *documents[1][1:]]]
    assert build(with_gaps, kind) == build(documents, kind)
    assert build([[], [[]]], kind) == []
