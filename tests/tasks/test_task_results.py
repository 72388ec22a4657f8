"""The interval of a difference, and the script that compares two fine-tunings."""

import json

import numpy as np
import pytest
from scripts import load_script

from bert_jax.errors import DataError
from bert_jax.tasks.metrics import accuracy
from bert_jax.tasks.results import bootstrap_interval


def outcomes(right, count=400):
    """Of which so many are right, of label 1, those first that are right."""
    predicted = np.arange(count) < right
    return np.stack([predicted, np.ones(count)], axis=1).astype(np.int64)


def test_the_interval_of_a_difference_is_of_the_same_examples():
    better, worse = [outcomes(320), outcomes(320)], [outcomes(280), outcomes(280)]
    low, high = bootstrap_interval(better, accuracy, minus=worse)
    # 40 of 400 differ: 0.1, of deviation sqrt(0.1 * 0.9 / 400) = 0.015; of sets drawn apart twice.
    assert 0.065 < low < 0.08 and 0.12 < high < 0.135
    assert bootstrap_interval(better, accuracy, minus=better) == (0, 0)
    backwards = bootstrap_interval(worse, accuracy, minus=better)
    assert backwards == pytest.approx((-high, -low))


def test_seeds_that_differ_widen_the_interval():
    same, spread = [outcomes(300)] * 3, [outcomes(270), outcomes(300), outcomes(330)]
    low, high = bootstrap_interval(spread, accuracy, minus=same)
    assert low < -0.03 and 0.03 < high  # the seeds' own means have a deviation of 0.035


@pytest.fixture
def workdir(tmp_path):
    def write(name, rights, **changes):
        result = {
            "family": "classification",
            "metric": "accuracy",
            "data_sha256": "0" * 64,
            "config_hash": name,
            "checkpoint_sha256": "1",
            "commit": "2",
            "summary": {"dev": {"accuracy": {"mean": float(np.mean(rights)) / 400}}},
            "seeds": [{"seed": i, "dev": {}} for i in range(len(rights))],
        }
        for i, right in enumerate(rights):
            (tmp_path / name / f"seed-{i}").mkdir(parents=True)
            np.save(tmp_path / name / f"seed-{i}" / "outcomes_dev.npy", outcomes(right))
        (tmp_path / name / "result.json").write_text(json.dumps(result | changes))
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def script():
    return load_script("tuning_difference")


def test_two_fine_tunings_are_compared(script, workdir):
    found = script.difference(workdir("a", [320, 324]), workdir("b", [280, 284, 288]))
    dev = found["splits"]["dev"]
    assert dev["difference"] == pytest.approx(0.805 - 0.71)
    assert dev["interval"][0] < dev["difference"] < dev["interval"][1]
    assert found["first"][0]["seeds"] == 2 and found["second"][0]["config_hash"] == "b"


def test_folds_are_compared_as_one_set(script, workdir, tmp_path):
    """Ten times the examples: a difference that one fold cannot tell from none, all can."""
    for fold in range(10):
        workdir(f"a/{fold}", [292], data_sha256=str(fold))
        workdir(f"b/{fold}", [280], data_sha256=str(fold))
    dev = script.difference(tmp_path / "a", tmp_path / "b")["splits"]["dev"]
    assert dev["examples"] == 4000 and dev["difference"] == pytest.approx(0.03)
    # A deviation of sqrt(0.03 * 0.97 / 4000) = 0.0027.
    assert 0.02 < dev["interval"][0] < 0.03 < dev["interval"][1] < 0.04
    (tmp_path / "b" / "3" / "result.json").unlink()
    with pytest.raises(DataError, match="a has 10 folds, .*b 9; accepted: as many"):
        script.difference(tmp_path / "a", tmp_path / "b")


def test_a_fine_tuning_is_no_better_than_itself(script, workdir):
    first = workdir("a", [320, 320])
    assert script.difference(first, first)["splits"]["dev"]["interval"] == (0, 0)


def test_what_cannot_be_compared_is_refused(script, workdir, tmp_path):
    first, second = workdir("a", [320]), workdir("b", [280], data_sha256="2" * 64)
    with pytest.raises(DataError, match="a has data_sha256 000000000000, .*b 222222222222"):
        script.difference(first, second)
    with pytest.raises(DataError, match=r"result.json is missing; accepted: a workdir"):
        script.difference(first, tmp_path / "none")
