"""The interval of a difference, and the script that compares two fine-tunings."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from scripts import load_script

from bert_jax.errors import DataError
from bert_jax.tasks.families.metrics import accuracy
from bert_jax.tasks.results import bootstrap_interval, result_table


def outcomes(right, count=400):
    """Of which so many are right, of label 1, those first that are right."""
    predicted = np.arange(count) < right
    return np.stack([predicted, np.ones(count)], axis=1).astype(np.int64)


@pytest.fixture(scope="module")
def script():
    return load_script("tuning_difference")


def test_an_interval_is_as_wide_as_examples_and_seeds_make_it():
    low, high = bootstrap_interval([outcomes(320)] * 3, accuracy)
    # A deviation of sqrt(0.8 * 0.2 / 400) = 0.02, of which 1.96 to each side.
    assert 0.75 < low < 0.77 and 0.83 < high < 0.85
    low, high = bootstrap_interval([outcomes(240), outcomes(400)], accuracy)
    assert low < 0.65 and high == 1


def test_the_interval_of_a_difference_is_of_the_same_examples(script):
    better, worse = [outcomes(320), outcomes(320)], [outcomes(280), outcomes(280)]
    low, high = script.interval_of_difference([(better, worse)], accuracy)
    # 40 of 400 differ: 0.1, of deviation sqrt(0.1 * 0.9 / 400) = 0.015; of sets drawn apart twice.
    assert 0.065 < low < 0.08 and 0.12 < high < 0.135
    assert script.interval_of_difference([(better, better)], accuracy) == (0, 0)
    backwards = script.interval_of_difference([(worse, better)], accuracy)
    assert backwards == pytest.approx((-high, -low))


def test_seeds_that_differ_widen_the_interval(script):
    same, spread = [outcomes(300)] * 3, [outcomes(270), outcomes(300), outcomes(330)]
    low, high = script.interval_of_difference([(spread, same)], accuracy)
    assert low < -0.03 and 0.03 < high  # the seeds' own means have a deviation of 0.035


def test_folds_that_differ_widen_the_interval(script):
    """Ten folds narrow what examples do to it, and not what their trainings do."""
    same = [([outcomes(292)], [outcomes(280)])] * 10
    low, high = script.interval_of_difference(same, accuracy)
    # A deviation of sqrt(0.03 * 0.97 / 4000) = 0.0027.
    assert 0.022 < low < 0.03 < high < 0.038
    spread = [([outcomes(right)], [outcomes(280)]) for right in (272, 312) for _ in range(5)]
    low, high = script.interval_of_difference(spread, accuracy)
    # Of single folds 0.05, of ten 0.016.
    assert low < 0.01 and 0.05 < high


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


def test_two_fine_tunings_are_compared(script, workdir):
    found = script.difference(workdir("a", [320, 324]), workdir("b", [280, 284, 288]))
    dev = found["splits"]["dev"]
    assert dev["difference"] == pytest.approx(0.805 - 0.71)
    assert dev["interval"][0] < dev["difference"] < dev["interval"][1]
    assert found["first"][0]["seeds"] == 2 and found["second"][0]["config_hash"] == "b"


def test_folds_of_a_cross_validation_are_compared(script, workdir, tmp_path):
    for fold, seeds in enumerate([[292, 296], [300], [288, 290, 292]]):
        workdir(f"a/{fold}", seeds, data_sha256=str(fold))
        workdir(f"b/{fold}", [280, 284], data_sha256=str(fold))
    found = script.difference(tmp_path / "a", tmp_path / "b")
    dev = found["splits"]["dev"]
    assert dev["examples"] == 1200
    assert dev["first"] == pytest.approx((294 + 300 + 290) / 1200)
    assert [one["seeds"] for one in found["first"]] == [2, 1, 3]
    (tmp_path / "b" / "2" / "result.json").unlink()
    with pytest.raises(DataError, match="3 folds in .*a, 2 in .*b; accepted: as many"):
        script.difference(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"data_sha256": "0"}, "two folds in .*a are of the same data"),
        ({"data_sha256": "1", "metric": "f1"}, "folds in .*a differ in metric"),
        ({"data_sha256": "1", "checkpoint_sha256": "2"}, "differ in checkpoint_sha256"),
    ],
)
def test_what_is_no_cross_validation_is_refused(other, said, script, workdir, tmp_path):
    workdir("a/0", [280], data_sha256="0")
    workdir("a/1", [280], **other)
    with pytest.raises(DataError, match=said):
        script.load_folds(tmp_path / "a")


def test_an_unfinished_fine_tuning_is_no_cross_validation(script, tmp_path):
    seed = tmp_path / "run" / "seed-0" / "result.json"
    seed.parent.mkdir(parents=True)
    for content, said in (('{"seed": 0}', "not that of a fine-tuning"), ("{", "is not JSON")):
        seed.write_text(content)
        with pytest.raises(DataError, match=f"{said}; accepted: a workdir of a finished"):
            script.difference(tmp_path / "run", tmp_path / "run")


def test_a_fine_tuning_is_no_better_than_itself(script, workdir):
    first = workdir("a", [320, 320])
    assert script.difference(first, first)["splits"]["dev"]["interval"] == (0, 0)


def test_what_cannot_be_compared_is_refused(script, workdir, tmp_path):
    first, second = workdir("a", [320]), workdir("b", [280], data_sha256="2" * 64)
    with pytest.raises(DataError, match="a has data_sha256 000000000000, .*b 222222222222"):
        script.difference(first, second)
    with pytest.raises(DataError, match=r"result.json is missing; accepted: a workdir"):
        script.difference(first, tmp_path / "none")


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
