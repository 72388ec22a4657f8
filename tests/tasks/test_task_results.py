"""The interval of a mean over seeds, and the table of results."""

import io

import numpy as np
from rich.console import Console

from bert_jax.finetuning.results import result_table, summarize
from bert_jax.tasks.families.metrics import accuracy


def outcomes(right, count=400):
    """Returns outcomes of examples with label 1; the first `right` predictions are correct."""
    predicted = np.arange(count) < right
    return np.stack([predicted, np.ones(count)], axis=1).astype(np.int64)


def test_the_interval_covers_the_variation_of_examples_and_seeds():
    def interval(*rights):
        found = summarize([outcomes(right) for right in rights], {"accuracy": accuracy}, "accuracy")
        return found["accuracy"]["interval"]

    low, high = interval(320, 320, 320)
    # The deviation is sqrt(0.8 * 0.2 / 400) = 0.02, and the interval is 1.96 of it on each side.
    assert 0.75 < low < 0.77 and 0.83 < high < 0.85
    low, high = interval(240, 400)
    assert low < 0.65 and high == 1
    assert interval(400, 400, 400) == [1, 1]
    low, high = interval(320)
    assert 0.75 < low < 0.77 and 0.83 < high < 0.85
    assert interval(0, 400) == [0, 1]


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
    assert (
        "config 0123456789ab, checkpoint ffffffffffff" in shown and "failed seeds: seed 4" in shown
    )
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
