"""The interval of a mean over seeds, and the table of results."""

import io

import numpy as np
import pytest
from rich.console import Console

from bert_jax.finetuning import results
from bert_jax.finetuning.results import interval_of_mean, result_table
from bert_jax.tasks.families.metrics import accuracy


def outcomes(right, count=400):
    """Returns outcomes of examples with label 1; the first `right` predictions are correct."""
    predicted = np.arange(count) < right
    return np.stack([predicted, np.ones(count)], axis=1).astype(np.int64)


def test_the_interval_covers_the_variation_of_examples_and_seeds():
    low, high = interval_of_mean([outcomes(320)] * 3, accuracy)
    # The deviation is sqrt(0.8 * 0.2 / 400) = 0.02, and the interval is 1.96 of it on each side.
    assert 0.75 < low < 0.77 and 0.83 < high < 0.85
    low, high = interval_of_mean([outcomes(240), outcomes(400)], accuracy)
    assert low < 0.65 and high == 1
    assert interval_of_mean([outcomes(400)] * 3, accuracy) == (1, 1)
    low, high = interval_of_mean([outcomes(320)], accuracy)
    assert 0.75 < low < 0.77 and 0.83 < high < 0.85


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_intervals_of_few_seeds_contain_the_mean_in_95_percent_of_cases(seeds, monkeypatch):
    """A percentile bootstrap of three seeds contained it in 78 % of these cases."""
    monkeypatch.setattr(results, "RESAMPLES", 60)
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        of_seeds, of_examples = rng.normal(0.5, 0.05, (seeds, 1)), rng.normal(0, 0.1, (1, 50))
        drawn = of_seeds + of_examples
        low, high = interval_of_mean([one[:, None] for one in drawn], lambda rows: rows.mean())
        covered.append(low <= 0.5 <= high)
    # The deviation of the fraction is sqrt(0.95 * 0.05 / 400) = 0.011.
    assert 0.92 < np.mean(covered) <= 0.985


def test_the_table_names_hashes_and_failed_seeds():
    scores = {"accuracy": 0.75}
    result = {
        "config_hash": "0123456789ab",
        "checkpoint_sha256": "f" * 64,
        "metric": "accuracy",
        "labels": ["bad", "fair", "good"],
        "seeds": [{"seed": 3, "dev": scores}, {"seed": 4, "diverged_at_step": 5}],
        "failed_seeds": [4],
        "summary": {"dev": {"accuracy": {"mean": 0.75, "standard_deviation": None}}},
        "baselines": {"dev": {"majority": {"accuracy": 0.5}}},
    }
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table(result))
    shown = console.export_text()
    assert "0.7500 -" in shown and "0.5000" in shown
    assert "config 0123456789ab, checkpoint ffffffffffff" in shown and "failed seeds: 4" in shown
    console.print(result_table(result | {"failed_seeds": []}))
    assert "failed seeds: none" in console.export_text()


def test_the_table_names_the_label_of_f1():
    def shown(labels):
        result = {
            "config_hash": "0123456789ab",
            "checkpoint_sha256": "f" * 64,
            "metric": "f1",
            "labels": labels,
            "seeds": [{"seed": 3, "dev": {"f1": 0.75}}],
            "failed_seeds": [],
            "summary": {"dev": {"f1": {"mean": 0.75, "standard_deviation": None}}},
            "baselines": {"dev": {"majority": {"f1": 0.5}}},
        }
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(result_table(result))
        return console.export_text()

    assert "dev f1 of fair" in shown(["bad", "fair", "good"])
    assert "dev f1 of" not in shown([])  # of question answering
