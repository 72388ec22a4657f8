"""The metrics of tasks agree with torchmetrics and seqeval.

Our metrics of labels and numbers use scikit-learn and SciPy; those of words and entities are ours.
"""

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score
from torchmetrics import functional
from torchmetrics.functional.text import squad

from bert_jax.tasks.families import tagging
from bert_jax.tasks.families.answers import exact_match, overlap_f1
from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.families.family import Example
from bert_jax.tasks.families.regression import REGRESSION

# torchmetrics adds some hundred float32 numbers of order 1.
RELATIVE = 1e-5


@pytest.mark.parametrize("labels", [2, 5])
def test_label_metrics(labels):
    rng = np.random.default_rng(labels)
    gold = rng.integers(0, labels, 300)
    predicted = np.where(rng.random(300) < 0.6, gold, rng.integers(0, labels, 300))
    outcomes = np.stack([predicted, gold], axis=1).astype(np.float64)
    ours = {name: metric(outcomes) for name, metric in CLASSIFICATION.metrics.items()}
    pair = torch.tensor(predicted), torch.tensor(gold)
    of_all = {"task": "multiclass", "num_classes": labels}
    expected = {
        "accuracy": functional.accuracy(*pair, **of_all, average="micro"),
        "f1": functional.f1_score(*(p == 1 for p in pair), task="binary"),
        "macro_f1": functional.f1_score(*pair, **of_all, average="macro"),
        "matthews": functional.matthews_corrcoef(*pair, **of_all),
    }
    assert ours == pytest.approx({k: float(v) for k, v in expected.items()}, rel=RELATIVE)


def test_number_metrics():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 6, 200).astype(np.float32)  # with ties
    predicted = (gold + rng.normal(size=200)).astype(np.float32)
    outcomes = np.stack([predicted, gold], axis=1).astype(np.float64)
    pair = torch.tensor(predicted), torch.tensor(gold)
    for name, theirs in (
        ("pearson", functional.pearson_corrcoef),
        ("spearman", functional.spearman_corrcoef),
    ):
        assert REGRESSION.metrics[name](outcomes) == pytest.approx(float(theirs(*pair)), rel=1e-4)


def test_answer_metrics():
    """300 pairs of answers with shared words, articles, punctuation, accents, or without words."""
    rng = np.random.default_rng(0)
    words = ["The", "a", "an", "film,", "Film", "U.S.", "café", "theatre", "--", "'", "1,000"]

    def answer():
        return " ".join(rng.choice(words, size=rng.integers(0, 5)))

    found = []
    for _ in range(300):
        predicted, gold = answer(), answer()
        theirs = squad(
            {"prediction_text": predicted, "id": "q"},
            {"answers": {"text": [gold], "answer_start": [0]}, "id": "q"},
        )
        ours = {
            "exact_match": 100 * exact_match(predicted, gold),
            "f1": 100 * overlap_f1(predicted, gold),
        }
        assert ours == pytest.approx({k: float(v) for k, v in theirs.items()}), (predicted, gold)
        found.append(ours["f1"])
    assert {0.0, 100.0} < set(found)


@pytest.mark.parametrize("letters", ["BI", "I", "BIES"])
def test_entity_f1(letters):
    """Random tags, many of which break the rules of the scheme, like a model's predictions."""
    rng = np.random.default_rng(0)
    labels = ("O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "LOC")))
    golds, predictions, examples = [], [], []
    for _ in range(300):
        gold = rng.integers(0, len(labels), rng.integers(1, 12))
        drawn = rng.integers(0, len(labels), len(gold))
        predicted = np.where(rng.random(len(gold)) < 0.7, gold, drawn)
        golds.append([labels[i] for i in gold])
        predictions.append(predicted)
        examples.append(Example("", (), tuple(gold)))
    outcomes = tagging.score(predictions, examples, labels)
    expected = f1_score(golds, [[labels[i] for i in one] for one in predictions])
    assert 0.1 < expected < 0.95
    assert tagging.entity_f1(outcomes) == pytest.approx(expected, rel=1e-12)
