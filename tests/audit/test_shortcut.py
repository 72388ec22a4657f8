"""Each classifier finds the shortcuts that its features show, and no others."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bert_jax.audit.shortcut import accuracy_of, load_pairs, measure_shortcut, ranking_of
from bert_jax.data.pairs import Pair
from bert_jax.data.records import encode_pairs, write_records
from bert_jax.files import sha256_of_file

VOCAB_SIZE = 300
SIDE = 12
LENGTHS, WORDS, OVERLAP = range(3)


def draw(rng, pieces, *, length=SIDE):
    return rng.choice(pieces, size=length)


def without_shortcut(rng):
    a, b = (draw(rng, VOCAB_SIZE, length=rng.integers(3, SIDE)) for _ in range(2))
    return Pair(a, b, int(rng.random() < 0.5))


def in_lengths(rng):
    """Total length reveals the label: 16 or 20 pieces if B follows A, 18 if B is random."""
    label, a_length = int(rng.random() < 0.5), rng.integers(3, 14)
    length = 18 if label else 16 + 4 * rng.integers(2)
    a = draw(rng, VOCAB_SIZE, length=a_length)
    return Pair(a, draw(rng, VOCAB_SIZE, length=length - a_length), label)


def in_words(rng):
    """Words reveal the label: a random B has pieces 100 to 299, all other texts 0 to 199."""
    label = int(rng.random() < 0.5)
    return Pair(draw(rng, 200), draw(rng, 200) + 100 * label, label)


def in_overlap(rng):
    """Overlap reveals the label: texts have ten topics, and B shares A's topic if B follows A."""
    label, topics = int(rng.random() < 0.5), rng.permutation(10)
    a, b = (30 * topics[i] + draw(rng, 30) for i in (0, label))
    return Pair(a, b, label)


def measure(kind, *, seed=0):
    rng = np.random.default_rng(seed)
    pairs = [kind(rng) for _ in range(3500)]
    shortcut = measure_shortcut(
        pairs[:2500], pairs[2500:], vocab_size=VOCAB_SIZE, sequence_length=32
    )
    assert shortcut is not None
    return shortcut


def test_random_labels_show_no_shortcut():
    """Counts intervals over ten seeds, because a 95 % interval misses once in twenty."""
    held = np.zeros(3)
    for seed in range(10):
        shortcut = measure(without_shortcut, seed=seed)
        assert 0.5 <= shortcut.majority < 0.56
        for i, one in enumerate(shortcut.classifiers):
            # True accuracy and ranking are one half, whatever the majority is.
            held[i] += one.accuracy.low <= 0.5 <= one.accuracy.high
            held[i] += one.ranking.low <= 0.5 <= one.ranking.high
    assert (held >= 16).all(), held  # 20 intervals each; P(fewer than 16) is below 0.003


@pytest.mark.parametrize(
    ("kind", "seeing"),
    [(in_lengths, {LENGTHS}), (in_words, {WORDS, OVERLAP}), (in_overlap, {OVERLAP})],
)
def test_a_planted_shortcut_is_found_by_the_classifiers_that_see_it(kind, seeing):
    shortcut = measure(kind)
    assert (shortcut.train_pairs, shortcut.held_out_pairs) == (2500, 1000)
    for i, one in enumerate(shortcut.classifiers):
        # A classifier that cannot see the shortcut is within about 4 standard errors of 0.5.
        if i in seeing:
            assert one.accuracy.low > 0.9 and one.ranking.low > 0.9, one
        else:
            assert abs(one.accuracy.value - 0.5) < 0.07, one
    assert shortcut.best in [shortcut.classifiers[i] for i in seeing]


def test_the_same_pairs_give_the_same_figures():
    assert measure(in_overlap) == measure(in_overlap)


@pytest.mark.parametrize("split", ["train", "held out"])
def test_a_split_with_one_label_gives_no_measurement(split):
    rng = np.random.default_rng(0)
    both = [without_shortcut(rng) for _ in range(50)]
    one = [pair._replace(label=1) for pair in both]
    arguments = (one, both) if split == "train" else (both, one)
    assert measure_shortcut(*arguments, vocab_size=VOCAB_SIZE, sequence_length=32) is None
    arguments = ([], both) if split == "train" else (both, [])
    assert measure_shortcut(*arguments, vocab_size=VOCAB_SIZE, sequence_length=32) is None


def test_wilson_interval_equals_published_values():
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    estimate = accuracy_of(np.arange(263) < 81)
    assert np.round(estimate, 4).tolist() == [0.308, 0.2553, 0.3662]
    estimate = accuracy_of(np.zeros(20, bool))
    assert np.round(np.abs(estimate), 4).tolist() == [0, 0, 0.1611]


def test_ranking_is_the_roc_area_with_a_bootstrap_interval():
    rng = np.random.default_rng(0)
    labels = (rng.random(800) < 0.7).astype(int)
    scores = np.round(labels + rng.normal(size=800), 1)  # with ties
    estimate = ranking_of(scores, labels)
    assert estimate.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    resamples = (rng.integers(0, 800, size=800) for _ in range(600))
    areas = [roc_auc_score(labels[i], scores[i]) for i in resamples]
    # 600 resamples give the ends of an interval to about a tenth of its half width, 0.033.
    assert estimate[1:] == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.006)
    assert ranking_of(labels, labels) == (1, 1, 1)


def test_pairs_come_evenly_from_all_shards_without_single_texts(tmp_path):
    shards = []
    for number, tokens in enumerate([range(4), range(4, 10)]):
        name = f"train-0000{number}-of-00002.array_record"
        rows = [[Pair([token], [5], 1), Pair([6], [], 0)] for token in tokens]
        records = [b"".join(encode_pairs(row, dtype="uint16")) for row in rows]
        write_records(records, path=tmp_path / name)
        sha256 = sha256_of_file(tmp_path / name)
        shards.append({"file": name, "examples": len(rows), "sha256": sha256})
    passport = {
        "record_dtype": "uint16",
        "vocab_size": VOCAB_SIZE,
        "splits": {"train": {"shards": shards}},
    }
    for rows, expected in ((5, [0, 2, 4, 6, 8]), (100, list(range(10)))):
        pairs = load_pairs(tmp_path, passport, split="train", rows=rows)
        assert [int(token) for pair in pairs for token in pair.a] == expected
