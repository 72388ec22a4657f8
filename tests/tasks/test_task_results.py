"""The interval of a mean over seeds, and the table of results."""

import io

import numpy as np
from rich.console import Console

from bert_jax.tasks.families.metrics import accuracy
from bert_jax.tasks.results import bootstrap_interval, result_table


def outcomes(right, count=400):
    """Returns outcomes of examples with label 1; the first `right` predictions are correct."""
    predicted = np.arange(count) < right
    return np.stack([predicted, np.ones(count)], axis=1).astype(np.int64)


def test_the_interval_covers_the_variation_of_examples_and_seeds():
    low, high = bootstrap_interval([outcomes(320)] * 3, accuracy)
    # The deviation is sqrt(0.8 * 0.2 / 400) = 0.02, and the interval is 1.96 of it on each side.
    assert 0.75 < low < 0.77 and 0.83 < high < 0.85
    low, high = bootstrap_interval([outcomes(240), outcomes(400)], accuracy)
    assert low < 0.65 and high == 1


def test_the_table_names_hashes_and_failed_seeds():
    scores = {"accuracy": 0.75}
    result = {
        "config_hash": "0123456789ab",
        "checkpoint_sha256": "f" * 64,
        "metric": "accuracy",
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
