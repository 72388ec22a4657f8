"""The interval of a mean over seeds, and the table of results."""

import io

import numpy as np
from rich.console import Console

from bert_jax.tasks.families.metrics import accuracy
from bert_jax.tasks.results import bootstrap_interval, result_table


def outcomes(right, count=400):
    """Of which so many are right, of label 1, those first that are right."""
    predicted = np.arange(count) < right
    return np.stack([predicted, np.ones(count)], axis=1).astype(np.int64)


def test_an_interval_is_as_wide_as_examples_and_seeds_make_it():
    low, high = bootstrap_interval([outcomes(320)] * 3, accuracy)
    # A deviation of sqrt(0.8 * 0.2 / 400) = 0.02, of which 1.96 to each side.
    assert 0.75 < low < 0.77 and 0.83 < high < 0.85
    low, high = bootstrap_interval([outcomes(240), outcomes(400)], accuracy)
    assert low < 0.65 and high == 1


def test_the_table_says_what_it_is_of_and_which_seeds_failed():
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
