"""Properties of the published recipe for sentence pairs."""

import itertools
import random
from collections import Counter

import pytest

from bert_jax.data.pairs import build_pairs


def numbered_documents(sentence_counts, *, sentence_length):
    """Returns documents in which every token has its own id, counted from 0."""
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
    settings |= changes
    dupe_factors = [settings.pop("dupe_factor")] * len(documents)
    return build_pairs(documents, dupe_factors=dupe_factors, **settings)


def document_numbers(documents):
    """Maps each token id to the number of its document."""
    return {
        token_id: number
        for number, document in enumerate(documents)
        for sentence in document
        for token_id in sentence
    }


@pytest.mark.parametrize("sequence_length", [5, 6, 32, 128])
@pytest.mark.parametrize("sentence_length", [1, 3, 40])
def test_a_and_b_are_not_empty_and_fit(sequence_length, sentence_length):
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


def test_labels_say_whether_b_follows_a():
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


def test_b_follows_a_without_a_gap_if_nothing_is_truncated():
    # With sentences of one token a chunk reaches its target length exactly.
    documents = numbered_documents([12, 5, 30, 100], sentence_length=1)
    pairs = build(documents, dupe_factor=20)
    follows = [pair for pair in pairs if pair.label == 0]
    assert follows
    assert all(pair.b[0] == pair.a[-1] + 1 for pair in follows)


def test_unused_sentences_are_put_back():
    # Apart from random B, a visit uses every sentence of its document exactly once and in order:
    # after A comes its B or the next A.
    documents = numbered_documents([1, 2, 17, 200, 3], sentence_length=1)
    for seed in range(20):
        pairs = build(documents, rng=random.Random(seed))
        used = [
            token_id for a, b, label in pairs for token_id in itertools.chain(a, () if label else b)
        ]
        assert used == list(range(223))


def test_a_fair_coin_draws_random_pairs_unless_a_chunk_has_one_sentence():
    documents = numbered_documents([40] * 50, sentence_length=5)
    ends = {document[-1][-1] for document in documents}
    pairs = build(documents, dupe_factor=80, short_sequence_probability=0.0)
    # A leaves the last sentence of its chunk to B. So if A reaches the end of its document, its
    # chunk has one sentence.
    alone = [pair.label for pair in pairs if pair.a[-1] in ends]
    others = [pair.label for pair in pairs if pair.a[-1] not in ends]
    assert set(alone) == {1} and len(alone) > 1000
    assert_share(sum(others), len(others), 0.5)


def assert_share(found, count, share):
    """Asserts that a share is within five standard deviations of the binomial distribution."""
    assert abs(found - count * share) < 5 * (count * share * (1 - share)) ** 0.5


def assert_uniform(values, expected):
    """Asserts that the expected values are drawn equally often and no other value is drawn."""
    counts = Counter(values)
    assert set(counts) == set(expected)
    for count in counts.values():
        assert_share(count, len(values), 1 / len(expected))


def test_a_document_of_one_sentence_always_gets_a_random_b():
    documents = numbered_documents([1] * 10, sentence_length=6)
    assert all(pair.label == 1 for pair in build(documents, dupe_factor=50))


def test_a_visit_has_one_target_length_and_short_ones_are_uniform():
    documents = numbered_documents([200], sentence_length=1)
    targets = []
    for seed in range(4000):
        pairs = build(documents, short_sequence_probability=0.5, rng=random.Random(seed))
        lengths = {len(pair.a) + len(pair.b) for pair in pairs[:-1] if 199 not in pair.a + pair.b}
        assert len(lengths) == 1
        targets += lengths
    # Half of the visits draw a target from 2 to 29 tokens; the other half have target 29.
    assert_share(targets.count(29), len(targets), 0.5 + 0.5 / 28)
    assert_uniform([target for target in targets if target < 29], range(2, 29))


def test_a_ends_at_any_sentence_of_its_chunk():
    documents = numbered_documents([290] * 40, sentence_length=1)
    pairs = build(documents, dupe_factor=20, short_sequence_probability=0.0)
    # Selects full chunks of 29 sentences without random B; a document's last chunk is shorter.
    lengths = [len(a) for a, b, label in pairs if label == 0 and len(a) + len(b) == 29]
    assert len(lengths) > 5000
    assert_uniform(lengths, range(1, 29))


def test_a_random_b_starts_at_any_sentence_of_any_other_document():
    documents = numbered_documents([10, 10, 10], sentence_length=1)
    pairs = build(documents, dupe_factor=2000, sequence_length=9, short_sequence_probability=0.0)
    of_first = [pair.b[0] for pair in pairs if pair.label == 1 and pair.a[0] < 10]
    # All ten draws give A's own document with probability 1 / 3**10 = 1 / 59,049.
    others = [start for start in of_first if start >= 10]
    assert len(of_first) > 2000 and len(of_first) - len(others) < 5
    assert_uniform(others, range(10, 30))


def test_after_ten_draws_a_random_b_comes_from_its_own_document():
    documents = numbered_documents([1, 1], sentence_length=1)
    pairs = build(documents, dupe_factor=50_000)
    own = sum(pair.a == pair.b for pair in pairs)
    assert_share(own, len(pairs), 2**-10)


def test_truncation_cuts_the_longer_text_at_either_end():
    documents = numbered_documents([2, 2], sentence_length=50)
    pairs = build(documents, dupe_factor=200)
    # 71 tokens are cut. B loses the first, because B is cut if both texts are equally long.
    assert {(len(pair.a), len(pair.b)) for pair in pairs} == {(15, 14)}
    for side, cut in (("a", 35), ("b", 36)):
        at_front = [getattr(pair, side)[0] % 50 for pair in pairs]
        assert 0 < min(at_front) and max(at_front) < cut, "each side is cut at both ends"
        # A fair coin decides for each token that is cut.
        assert_share(sum(at_front), cut * len(pairs), 0.5)


def test_a_single_document_never_gets_a_false_label():
    documents = numbered_documents([6], sentence_length=1)
    pairs = build(documents, dupe_factor=300)
    follows = [pair.b[0] == pair.a[-1] + 1 for pair in pairs]
    assert [pair.label == 0 for pair in pairs] == follows
    assert set(follows) == {True, False}


def test_every_visit_differs_and_a_seed_is_reproducible():
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
