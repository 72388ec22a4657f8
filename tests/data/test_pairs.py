"""Properties of the published recipe for sentence pairs."""

import itertools
import random

import pytest

from bert_jax.data.pairs import build_pairs


def numbered_documents(sentence_counts, *, sentence_length):
    """Documents in which every token of the corpus has its own id, counted from 0."""
    ids = itertools.count()
    return [
        [[next(ids) for _ in range(sentence_length)] for _ in range(count)]
        for count in sentence_counts
    ]


def build(documents, **changes):
    settings = {
        "sequence_length": 32,
        "dupe_factor": 1,
        "short_sequence_probability": 0.1,
        "rng": random.Random(7),
    }
    return build_pairs(documents, **(settings | changes))


def document_numbers(documents):
    """Token id -> number of its document."""
    return {
        token_id: number
        for number, document in enumerate(documents)
        for sentence in document
        for token_id in sentence
    }


@pytest.mark.parametrize("sequence_length", [5, 6, 32, 128])
@pytest.mark.parametrize("sentence_length", [1, 3, 40])
def test_both_sides_hold_text_and_fit(sequence_length, sentence_length):
    documents = numbered_documents([1, 2, 3, 9, 30], sentence_length=sentence_length)
    pairs = build(
        documents,
        sequence_length=sequence_length,
        dupe_factor=20,
        short_sequence_probability=0.5,
    )
    assert pairs
    for pair in pairs:
        assert len(pair.a) >= 1 and len(pair.b) >= 1
        assert len(pair.a) + len(pair.b) <= sequence_length - 3


def test_labels_tell_where_b_comes_from():
    documents = numbered_documents([12, 5, 30, 1], sentence_length=4)
    number = document_numbers(documents)
    pairs = build(documents, dupe_factor=50)
    assert {pair.label for pair in pairs} == {0, 1}
    for a, b, label in pairs:
        assert a == list(range(a[0], a[0] + len(a))), "A is contiguous text"
        assert b == list(range(b[0], b[0] + len(b))), "B is contiguous text"
        if label == 1:
            assert number[a[0]] != number[b[0]]
        else:
            assert number[a[0]] == number[b[-1]] and b[0] > a[-1]


def test_b_follows_a_without_a_gap_where_nothing_is_truncated():
    # With sentences of one token a chunk reaches its target length exactly.
    documents = numbered_documents([12, 5, 30, 100], sentence_length=1)
    pairs = build(documents, dupe_factor=20)
    follows = [pair for pair in pairs if pair.label == 0]
    assert follows
    assert all(pair.b[0] == pair.a[-1] + 1 for pair in follows)


def test_unused_sentences_are_put_back():
    # One visit uses every sentence of its document exactly once and in order, not counting random
    # B: A is followed either by its B or by the next A.
    documents = numbered_documents([1, 2, 17, 200, 3], sentence_length=1)
    for seed in range(20):
        pairs = build(documents, rng=random.Random(seed))
        used = [
            token_id for a, b, label in pairs for token_id in itertools.chain(a, () if label else b)
        ]
        assert used == list(range(223))


def test_random_pairs_are_more_than_half():
    documents = numbered_documents([40] * 50, sentence_length=5)
    labels = [pair.label for pair in build(documents, dupe_factor=20)]
    share = sum(labels) / len(labels)
    # A fair coin decides but for chunks of one sentence, which are at the ends of the documents:
    # five standard deviations of the coin lie below the lower bound.
    assert len(labels) > 5_000
    assert 0.5 + 0.035 < share < 0.65


def test_one_sentence_always_gets_a_random_partner():
    documents = numbered_documents([1] * 10, sentence_length=6)
    assert all(pair.label == 1 for pair in build(documents, dupe_factor=50))


def test_the_target_length_is_drawn_once_for_each_visit_of_a_document():
    documents = numbered_documents([200], sentence_length=1)
    lengths_of_visits = set()
    for seed in range(40):
        pairs = build(documents, short_sequence_probability=1.0, rng=random.Random(seed))
        lengths = {len(pair.a) + len(pair.b) for pair in pairs[:-1] if 199 not in pair.a + pair.b}
        assert len(lengths) == 1
        lengths_of_visits |= lengths
    assert min(lengths_of_visits) >= 2 and max(lengths_of_visits) <= 29
    assert len(lengths_of_visits) > 10


def test_truncation_cuts_the_longer_side_at_either_end():
    documents = numbered_documents([2, 2], sentence_length=50)
    pairs = build(documents, dupe_factor=200)
    cut_at_front = [pair.a[0] % 50 for pair in pairs]
    cut_at_end = [49 - pair.a[-1] % 50 for pair in pairs]
    assert all(abs(len(pair.a) - len(pair.b)) <= 1 for pair in pairs)
    # Each A loses 35 or 36 tokens, a fair coin deciding on which side: the mean within five
    # standard deviations (3.0 for one pair), and 0.25 for not knowing which of the two it is.
    mean = sum(cut_at_front) / len(pairs)
    assert abs(mean - 35.5 / 2) < 5 * 3.0 / len(pairs) ** 0.5 + 0.25
    assert min(cut_at_front) > 0 and min(cut_at_end) > 0


def test_a_single_document_never_gets_a_false_label():
    documents = numbered_documents([6], sentence_length=1)
    pairs = build(documents, dupe_factor=300)
    follows = [pair.b[0] == pair.a[-1] + 1 for pair in pairs]
    assert [pair.label == 0 for pair in pairs] == follows
    assert set(follows) == {True, False}


def test_every_visit_differs_and_a_seed_repeats():
    documents = numbered_documents([30, 30, 30], sentence_length=4)
    pairs = build(documents, dupe_factor=2)
    assert pairs == build(documents, dupe_factor=2)
    assert pairs != build(documents, dupe_factor=2, rng=random.Random(8))
    assert pairs[: len(build(documents))] == build(documents)
    assert pairs[len(build(documents)) :] != build(documents)


def test_empty_sentences_and_documents_are_left_out():
    documents = numbered_documents([3, 4], sentence_length=3)
    with_gaps = [[], [[]], [[], *documents[0]], [documents[1][0], [], *documents[1][1:]]]
    assert build(with_gaps, dupe_factor=5) == build(documents, dupe_factor=5)
