"""Measures how well text lengths and words alone solve the pair task: does B follow A?

The classifiers do not see word order, so they cannot understand A and B. If they are still more
accurate than the majority label, a model may use the same shortcut. For instance, a random B often
has another topic than A (RoBERTa, Liu et al. 2019, 4.2; ALBERT, Lan et al. 2019, 3.1).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sparse
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bert_jax.data.pairs import Pair
from bert_jax.data.records import open_split

TRAIN_ROWS, HELD_OUT_ROWS = 40_000, 10_000
"""Maximum number of rows to read from each split. At 128 positions, this takes six seconds."""

_Z = 1.96  # for a 95 % interval
_INVERSE_PENALTY = 0.03
"""scikit-learn's `C`. The values 0.01, 0.03, 0.1 and 1 were tried on the embedded corpus, at 32 and
at 128 positions. With 0.03, the held-out accuracy is within half a point of the best. The default
of 1 regularizes too little, because each document is cut into pairs several times."""


class Estimate(NamedTuple):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """The result of a logistic regression on held-out pairs."""

    name: str
    sees: str
    """Description of the features."""
    accuracy: Estimate
    ranking: Estimate
    """Area under the ROC curve: how often a pair of label 1 scores higher than one of label 0."""


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """The results of all classifiers."""

    train_pairs: int
    held_out_pairs: int
    majority: float
    """Share of the more frequent held-out label."""
    classifiers: tuple[Classifier, ...]

    @property
    def best(self) -> Classifier:
        return max(self.classifiers, key=lambda one: one.accuracy.value)


def measure_data(directory: Path, passport: dict) -> Shortcut | None:
    """Applies `measure_shortcut` to prepared data; returns None if `data.pairs` is 'none'."""
    if passport["preparation"]["pairs"] == "none":
        return None
    return measure_shortcut(
        load_pairs(directory, passport, split="train", rows=TRAIN_ROWS),
        load_pairs(directory, passport, split="eval", rows=HELD_OUT_ROWS),
        vocab_size=passport["vocab_size"],
        sequence_length=passport["preparation"]["sequence_length"],
    )


def load_pairs(directory: str | Path, passport: dict, *, split: str, rows: int) -> list[Pair]:
    """Returns the labelled pairs of at most `rows` records, evenly spaced over the split."""
    source = open_split(directory, passport, split=split)
    count = min(rows, len(source))
    decoded = source.rows([i * len(source) // count for i in range(count)])
    return [pair for row in decoded for pair in row if len(pair.b)]


def measure_shortcut(
    train: Sequence[Pair], held_out: Sequence[Pair], *, vocab_size: int, sequence_length: int
) -> Shortcut | None:
    """Fits the classifiers on the training pairs and measures them on the held-out pairs.

    Returns None if all pairs of a split have the same label.
    """
    labels = np.array([pair.label for pair in train])
    wanted = np.array([pair.label for pair in held_out])
    if len(np.unique(labels)) < 2 or len(np.unique(wanted)) < 2:
        return None
    featurize = partial(
        _features, reference=train, vocab_size=vocab_size, sequence_length=sequence_length
    )
    classifiers = []
    for (name, sees, features), (_, _, unseen) in zip(
        featurize(train), featurize(held_out), strict=True
    ):
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000).fit(features, labels)
        scores = model.decision_function(unseen)
        accuracy, ranking = accuracy_of((scores > 0) == wanted), ranking_of(scores, wanted)
        classifiers.append(Classifier(name=name, sees=sees, accuracy=accuracy, ranking=ranking))
    return Shortcut(
        train_pairs=len(train),
        held_out_pairs=len(held_out),
        majority=float(max(wanted.mean(), 1 - wanted.mean())),
        classifiers=tuple(classifiers),
    )


def accuracy_of(correct: np.ndarray) -> Estimate:
    """Returns the share of True values, with Wilson's interval."""
    test = binomtest(int(correct.sum()), len(correct))
    low, high = test.proportion_ci(method="wilson")
    return Estimate(float(test.statistic), float(low), float(high))


def ranking_of(scores: np.ndarray, labels: np.ndarray) -> Estimate:
    """Returns the area under the ROC curve with the interval of Hanley and McNeil (1982)."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    area = float(roc_auc_score(labels, scores))
    one, other = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area)
    variance += (positives - 1) * (one - area**2) + (negatives - 1) * (other - area**2)
    half = _Z * math.sqrt(variance / (positives * negatives))
    return Estimate(area, max(0.0, area - half), min(1.0, area + half))


def _features(
    pairs: Sequence[Pair], *, reference: Sequence[Pair], vocab_size: int, sequence_length: int
) -> Iterator[tuple[str, str, sparse.csr_array]]:
    """Yields the name, the description and the features [pairs, features] of each classifier.

    The rarity of pieces is computed from the `reference` pairs. A and B of a pair are two texts.
    """
    lengths = _lengths(pairs, sequence_length=sequence_length)
    yield "lengths", "how many pieces are in A and in B, their sum and difference", lengths
    a, b = _bags_of_sides(pairs, vocab_size=vocab_size)
    words = sparse.csr_array(sparse.hstack([a, b]))
    yield "words", "which pieces are in A, and which in B", words
    rarity = TfidfTransformer().fit(sparse.vstack(_bags_of_sides(reference, vocab_size=vocab_size)))
    shared = sparse.csr_array(a.multiply(b))
    all_three = sparse.hstack([words, shared, _overlap(a, b, shared, rarity=rarity)])
    sees = "which pieces are in A, in B and in both, and how many"
    yield "words and overlap", sees, sparse.csr_array(all_three)


def _lengths(pairs: Sequence[Pair], *, sequence_length: int) -> sparse.csr_array:
    """Returns one-hot [pairs, 5 * sequence_length]: length of A, of B, their sum, difference."""
    n = sequence_length  # an upper bound of each side and of their sum
    a, b = np.array([(len(pair.a), len(pair.b)) for pair in pairs]).T
    columns = np.stack([a, n + b, 2 * n + a + b, 4 * n + a - b], axis=1)
    return _ones(columns.ravel(), ends=np.arange(0, columns.size + 1, 4), width=5 * n)


def _bags_of_sides(pairs: Sequence[Pair], *, vocab_size: int) -> list[sparse.csr_array]:
    """Returns two arrays [pairs, vocab], for A and for B: 1 if the text contains the piece."""
    both = []
    for texts in ([pair.a for pair in pairs], [pair.b for pair in pairs]):
        ends = np.cumsum([0, *map(len, texts)])
        bags = _ones(np.concatenate(texts).astype(np.int64), ends=ends, width=vocab_size)
        bags.sum_duplicates()
        bags.data[:] = 1
        both.append(bags)
    return both


def _ones(columns: np.ndarray, *, ends: np.ndarray, width: int) -> sparse.csr_array:
    return sparse.csr_array(
        (np.ones(len(columns), np.float32), columns, ends), shape=(len(ends) - 1, width)
    )


def _overlap(a, b, shared, *, rarity) -> np.ndarray:
    """Returns [pairs, 2]: the cosine similarity of A and B, and the share of common pieces.

    The share is the number of common pieces, divided by the number of pieces of the text with
    fewer pieces. In the cosine, rare pieces have more weight. Both features are multiplied by 10,
    so the penalty affects each of them about as much as the 0-or-1 feature of a piece.
    """
    cosine = np.ravel(rarity.transform(a).multiply(rarity.transform(b)).sum(axis=1))
    smaller = np.minimum(a.sum(axis=1), b.sum(axis=1))
    return 10 * np.stack([cosine, shared.sum(axis=1) / smaller], axis=1)
