"""The records of docs/runs: what they hold, how they are made, and what is recomputed from them."""

import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scripts import BENCHMARKS, load_script

from bert_jax import Experiment
from bert_jax.config import from_json
from bert_jax.errors import DataError
from bert_jax.tasks.config import FineTuningConfig

pytestmark = pytest.mark.slow

DOCS = BENCHMARKS.parent / "docs"
RECORDS = sorted((DOCS / "runs").glob("*.jsonl"))
WITH_OUTCOMES: set[str] = set()
"""Stems of the RECORDS that hold outcomes. Every record of today is older than the outcomes."""
RUNS = Path(__file__).parent / "goldens" / "runs" / "runs.tar.xz"


@pytest.fixture(scope="module")
def record():
    return load_script("record")


@pytest.fixture(scope="module")
def intervals():
    return load_script("intervals")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A directory with a pretraining run of one phase, of two phases, and a fine-tuning."""
    directory = tmp_path_factory.mktemp("earlier")
    with tarfile.open(RUNS) as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_each_run_of_a_record_has_a_readable_config_and_its_source(file, record):
    runs = [line for line in record.read_record(file) if line["kind"] == "run"]
    assert len({run["name"] for run in runs}) == len(runs)
    for run in runs:
        root = FineTuningConfig if "task" in run["config"] else Experiment
        if "@" in (run["config"].get("model", {}).get("class") or ""):
            # The class is one of a file with the SHA-256 that follows, and that file may change.
            del run["config"]["model"]["class"]
        assert from_json(root, run["config"]).seed == run["config"]["seed"]
        assert re.fullmatch("[0-9a-f]{40}", run["commit"])
        assert run["config_hash"] == run["result"]["config_hash"]
        assert run["metrics"]


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_outcomes_of_a_record_give_its_intervals(file, intervals):
    found = list(intervals.intervals_of(file))
    recomputed = [interval for interval in found if interval.recomputed is not None]
    assert len(recomputed) == (len(found) if file.stem in WITH_OUTCOMES else 0)
    assert all(interval.same for interval in recomputed)


def test_results_name_every_record_and_no_other():
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    assert set(re.findall(r"runs/(\w+\.jsonl)", text)) == {file.name for file in RECORDS}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], "<u1"),
        ([[300.0, -2.0, 1.0]], "<i4"),
        ([[0.5, float("nan")]], "<f4"),
        ([[0.1], [1e-300]], "<f8"),
        (np.zeros((0, 2)), "<u1"),
    ],
)
def test_packed_values_can_be_unpacked(values, dtype, record):
    array = np.array(values, np.float64)
    packed = json.loads(json.dumps(record.pack(array)))
    assert packed["dtype"] == dtype
    np.testing.assert_array_equal(record.unpack(packed), array)


def test_a_fine_tuning_becomes_a_line_whose_outcomes_give_its_interval(
    record, intervals, runs, tmp_path
):
    workdir = runs / "finetuned"
    line = record.describe_run("finetuned", workdir)
    assert line["result"] == json.loads((workdir / "result.json").read_text())
    assert line["config"] == json.loads((workdir / "config.json").read_text())
    assert line["commit"] == line["result"]["commit"]
    rows = [json.loads(row) for f in sorted(workdir.glob("*/metrics.jsonl")) for row in f.open()]
    assert line["metrics"] == rows and rows
    expected = np.load(workdir / "seed-0" / "outcomes_dev.npy")
    np.testing.assert_array_equal(record.outcomes_of(line, "dev")[0], expected)

    file = tmp_path / "record.jsonl"
    record.write_record(file, [line])
    (interval,) = intervals.intervals_of(file)
    recorded = line["result"]["summary"]["dev"][line["result"]["metric"]]
    assert interval.recorded == [recorded["mean"], *recorded["interval"]]
    assert interval.recomputed == pytest.approx(interval.recorded) and interval.same


def test_outcomes_of_two_fine_tunings_give_the_interval_of_their_difference(
    record, intervals, runs, tmp_path
):
    file, line = tmp_path / "record.jsonl", record.describe_run("first", runs / "finetuned")
    (outcomes,) = record.outcomes_of(line, "dev")
    wrong = record.pack(np.stack([1 - outcomes[:, 1], outcomes[:, 1]], axis=1))
    second = line | {"name": "second", "outcomes": {"dev": {"0": wrong}}}
    record.write_record(file, [line, second])
    difference = intervals.paired_difference.difference(f"{file}:first", f"{file}:second")
    dev = difference["splits"]["dev"]
    assert dev["difference"] == (outcomes[:, 0] == outcomes[:, 1]).mean() > 0
    for change in (0, 1e-6):
        dev["difference"] += change
        record.write_record(file, [line, second, difference])
        *_, interval = intervals.intervals_of(file)
        assert interval.recomputed is not None and interval.same == (change == 0)


def run_script(script, monkeypatch, *arguments, **flags):
    """Runs `main` of a script with flags that only its command line defines."""
    monkeypatch.setattr(script, "FLAGS", type("Flags", (), flags))
    script.main(*map(str, arguments))


def test_runs_of_both_commands_become_a_record(record, runs, tmp_path, monkeypatch):
    output = tmp_path / "record.jsonl"
    reference = tmp_path / "torch.json"
    reference.write_text('{"torch": "2.13.0"}')
    sources = (runs / "finetuned", reference, runs / "one_phase")
    run_script(record, monkeypatch, *sources, output=str(output))
    *lines, line = record.read_record(output)
    expected = {"format_version": 1, "kind": "reference", "name": "torch", "torch": "2.13.0"}
    assert line == expected
    assert [line["name"] for line in lines] == ["finetuned", "one_phase"]
    assert "outcomes" not in lines[1] and lines[1]["result"]["mlm_loss"] > 0
    assert lines[1]["metrics"][-1]["step"] == lines[1]["result"]["steps"]
    found = record.load_runs(f"{output}:one_phase")
    assert list(found.values()) == lines[1:]
    with pytest.raises(DataError, match="no such run; accepted: finetuned, one_phase"):
        record.load_runs(f"{output}:one")


@pytest.mark.parametrize("number", [0, 1, 2], ids=["mean", "low", "high"])
def test_the_error_names_a_changed_figure(number, record, intervals, runs, tmp_path, capsys):
    line = record.describe_run("finetuned", runs / "finetuned")
    metric = line["result"]["metric"]
    recorded = line["result"]["summary"]["dev"][metric]
    numbers = [recorded["mean"], *recorded["interval"]]
    numbers[number] -= 0.001
    recorded["mean"], *recorded["interval"] = numbers
    file, old = tmp_path / "record.jsonl", dict(line, name="old")
    del old["outcomes"]
    record.write_record(file, [line, old])
    with pytest.raises(DataError, match=f"finetuned dev {metric} has .* 1 intervals differ"):
        intervals.main(str(file))
    printed = capsys.readouterr().out
    assert "2 intervals; 1 recomputed, 1 not kept" in printed
    assert f"old dev {metric}" in printed and "the interval cannot be recomputed" in printed


def test_cosines_of_a_record_give_its_scores(record, intervals, tmp_path, monkeypatch):
    lee = load_script("lee_similarity")
    rng = np.random.default_rng(0)
    ratings = lee.symmetric(rng.random(190))
    monkeypatch.setattr(lee, "DRAWS", 50)
    monkeypatch.setattr(lee, "fetch", lambda cache: cache)
    monkeypatch.setattr(lee, "read", lambda wheel: lee.Lee([""] * 20, ratings))
    scores = {pooling: lee.evaluate(rng.normal(size=(20, 8)), ratings) for pooling in lee.POOLINGS}
    line = {"format_version": 1, "kind": "similarity", "models": {"mini": scores}}
    record.write_record(tmp_path / "lee.jsonl", [line])
    found = list(intervals.intervals_of(tmp_path / "lee.jsonl"))
    assert len(found) == 3 and all(interval.same for interval in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format_version": 1, "kind": "run"}\n{', ":2 is not JSON"),
        ('{"format_version": 2}', ":1 has format_version 2; accepted: 1"),
        ("[]", ":1 has format_version None"),
    ],
)
def test_a_damaged_record_is_refused(content, message, record, tmp_path):
    (tmp_path / "record.jsonl").write_text(content)
    with pytest.raises(DataError, match=f"record.jsonl{message}"):
        record.read_record(tmp_path / "record.jsonl")


def test_a_directory_without_runs_is_refused(record, runs, tmp_path):
    with pytest.raises(DataError, match="config.json is missing; accepted: the workdir"):
        record.workdirs(tmp_path)
    shutil.copytree(runs / "finetuned", tmp_path / "run", ignore=shutil.ignore_patterns("*.npy"))
    with pytest.raises(DataError, match="outcomes_dev.npy is missing"):
        record.describe_run("run", tmp_path / "run")
