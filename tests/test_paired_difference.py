"""The script that compares two fine-tunings, and the interval of their difference."""

import json
import shutil

import numpy as np
import pytest
from scripts import load_script

from bert_jax.errors import DataError
from bert_jax.statistics import examples

pytestmark = pytest.mark.slow


def outcomes(right, count=400):
    """Returns outcomes with gold label 1, of which the first `right` are predicted correctly."""
    predicted = np.arange(count) < right
    return np.stack([predicted, np.ones(count)], axis=1).astype(np.int64)


def accuracy(outcomes):
    """Returns the family's accuracy; scikit-learn needs a millisecond, and draws are thousands."""
    return float((outcomes[:, 0] == outcomes[:, 1]).mean())


@pytest.fixture(scope="module")
def script():
    return load_script("paired_difference")


def test_both_sides_of_a_difference_get_the_same_examples(script):
    better, worse = [outcomes(320), outcomes(320)], [outcomes(280), outcomes(280)]
    low, high = script.student_t_interval([(better, worse)], accuracy)
    # 40 of 400 examples differ: mean 0.1, deviation sqrt(0.1 * 0.9 / 400) = 0.015. Draws of
    # different examples for the two sides would give about twice this deviation.
    assert 0.065 < low < 0.08 and 0.12 < high < 0.135
    assert script.student_t_interval([(better, better)], accuracy) == (0, 0)
    backwards = script.student_t_interval([(worse, better)], accuracy)
    assert backwards == pytest.approx((-high, -low))


def test_seeds_that_differ_widen_the_interval(script):
    same, spread = [outcomes(300)] * 3, [outcomes(270), outcomes(300), outcomes(330)]
    low, high = script.student_t_interval([(spread, same)], accuracy)
    assert low < -0.03 and 0.03 < high  # the deviation of the mean over seeds is 0.035


def test_folds_that_differ_widen_the_interval(script):
    """The variance between folds includes the variance from their examples."""
    rng = np.random.default_rng(0)
    like = [([outcomes(rng.binomial(400, 0.73))], [outcomes(280)]) for _ in range(10)]
    low, high = script.student_t_interval(like, accuracy)
    # The deviation is sqrt(0.73 * 0.27 / 4000) = 0.007.
    assert 0.005 < low < 0.03 < high < 0.055
    spread = [([outcomes(right)], [outcomes(280)]) for right in (272, 312) for _ in range(5)]
    low, high = script.student_t_interval(spread, accuracy)
    # The deviation of a single fold is 0.05, of the mean of ten folds 0.016.
    assert low < 0.01 and 0.05 < high


@pytest.mark.parametrize("folds", [1, 2, 5])
def test_intervals_of_few_seeds_and_folds_contain_the_difference(folds, script, monkeypatch):
    """A percentile bootstrap contained it in 82 % of the cases of one fold, and in 89 % of two."""
    monkeypatch.setattr(script, "RESAMPLES", 40)
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        drawn = []
        for _ in range(folds):
            examples = rng.normal(0, 0.1, (1, 50))  # the same for both fine-tunings
            sides = [
                examples + rng.normal(0, 0.05, (3, 1)) + rng.normal(mean, 0.1, (1, 50))
                for mean in (0.5, 0.4)
            ]
            drawn.append(tuple([one[:, None] for one in side] for side in sides))
        low, high = script.student_t_interval(drawn, lambda rows: rows.mean())
        covered.append(low <= 0.1 <= high)
    # The deviation of the fraction is sqrt(0.95 * 0.05 / 300) = 0.013.
    assert 0.91 < np.mean(covered) <= 0.99


@pytest.fixture
def workdir(script, tmp_path, monkeypatch):
    """`workdir(name, rights)` writes a fine-tuning with `rights` correct examples in each seed."""
    monkeypatch.setattr(script, "RESAMPLES", 100)
    monkeypatch.setattr(examples, "RESAMPLES", 100)

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
        for file in ("config", "environment"):
            (tmp_path / name / f"{file}.json").write_text("{}")
        return str(tmp_path / name)

    return write


def test_two_fine_tunings_are_compared(script, workdir):
    found = script.difference(workdir("a", [320, 324]), workdir("b", [280, 284, 288]))
    dev = found["splits"]["dev"]
    assert dev["difference"] == pytest.approx(0.805 - 0.71)
    assert dev["interval"][0] < dev["difference"] < dev["interval"][1]
    assert found["first"]["runs"][0]["seeds"] == 2
    assert found["second"]["runs"][0]["config_hash"] == "b"
    assert found["method"] == "student_t"


def test_equal_seeds_are_paired(script, workdir):
    """Both gain the same from a seed, so the seeds do not widen the interval of the difference."""
    found = script.difference(workdir("a", [300, 320, 340]), workdir("b", [260, 280, 300]))
    low, high = found["splits"]["dev"]["interval"]
    assert found["method"] == "student_t"
    # 40 of 400 examples differ: mean 0.1, deviation 0.015, without the seeds' part of 0.05.
    assert 0.06 < low < 0.08 and 0.12 < high < 0.14


def test_folds_of_a_cross_validation_are_compared(script, workdir, tmp_path):
    for fold, seeds in enumerate([[292, 296], [300], [288, 290, 292]]):
        workdir(f"a/{fold}", seeds, data_sha256=str(fold))
        workdir(f"b/{fold}", [280, 284], data_sha256=str(fold))
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    found = script.difference(first, second)
    dev = found["splits"]["dev"]
    assert dev["examples"] == 1200
    assert dev["first"] == pytest.approx((294 + 300 + 290) / 1200)
    assert [run["seeds"] for run in found["first"]["runs"]] == [2, 1, 3]
    shutil.rmtree(tmp_path / "b" / "2")
    with pytest.raises(DataError, match="3 folds in .*a, 2 in .*b; accepted: equally many"):
        script.difference(first, second)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_sha256": "0"}, "two folds in .*a are of the same data"),
        ({"data_sha256": "1", "metric": "f1"}, "folds in .*a differ in metric"),
        ({"data_sha256": "1", "checkpoint_sha256": "2"}, "differ in checkpoint_sha256"),
    ],
)
def test_folds_that_do_not_belong_together_are_refused(changes, message, script, workdir, tmp_path):
    workdir("a/0", [280], data_sha256="0")
    workdir("a/1", [280], **changes)
    with pytest.raises(DataError, match=message):
        script.load_folds(str(tmp_path / "a"))


def test_a_run_that_is_not_a_finished_fine_tuning_is_refused(script, workdir, tmp_path):
    run = workdir("run", [280])
    result = tmp_path / "run" / "result.json"
    for content, message in (
        ('{"config_hash": "1"}', "run is not a fine-tuning"),
        ("{", "is not JSON"),
    ):
        result.write_text(content)
        with pytest.raises(DataError, match=f"{message}; accepted: the workdir of a finished"):
            script.difference(run, run)
    result.unlink()
    with pytest.raises(DataError, match="result.json is missing"):
        script.difference(run, run)


def test_a_fine_tuning_is_no_better_than_itself(script, workdir):
    first = workdir("a", [320, 320])
    assert script.difference(first, first)["splits"]["dev"]["interval"] == (0, 0)


def test_fine_tunings_of_different_data_are_refused(script, workdir, tmp_path):
    first, second = workdir("a", [320]), workdir("b", [280], data_sha256="2" * 64)
    with pytest.raises(DataError, match="a has data_sha256 000000000000, .*b has 222222222222"):
        script.difference(first, second)
    with pytest.raises(DataError, match=r"config.json is missing; accepted: the workdir"):
        script.difference(first, str(tmp_path / "none"))


def test_a_record_gives_the_same_difference_and_gets_it_as_a_line(script, workdir, tmp_path):
    for fold in ("0", "1"):
        workdir(f"a/{fold}", [320, 324], data_sha256=fold)
        workdir(f"b/{fold}", [280], data_sha256=fold)
    sides = [str(tmp_path / name) for name in "ab"]
    expected = script.difference(*sides)
    record, file = load_script("record"), tmp_path / "record.jsonl"
    names = {f"{name}/{fold}": tmp_path / name / fold for name in "ab" for fold in "01"}
    lines = [record.describe_run(name, directory) for name, directory in names.items()]
    record.write_record(file, lines)
    assert script.difference(f"{file}:a", f"{file}:b") == expected
    for _ in range(2):  # the second line takes the place of the first
        script.write(file, expected)
        found = record.read_record(file)
        assert found[:-1] == lines and found[-1] == json.loads(json.dumps(expected))
    for line in lines:
        del line["outcomes"]
    record.write_record(file, lines)
    with pytest.raises(DataError, match="record.jsonl:a/0 holds no outcomes"):
        script.difference(f"{file}:a", f"{file}:b")
