"""`verify` agrees with what a run wrote, and says where one changed byte makes it differ."""

import json
import shutil
from pathlib import Path

import pytest
from commands import assert_one_line, run_command

from bert_jax.command import load
from bert_jax.config import override
from bert_jax.errors import ConfigError, DataError
from bert_jax.faults.run_files import read_rows
from bert_jax.sweep import summarize
from bert_jax.sweeps.gather import gather
from bert_jax.sweeps.grid import PlannedRun, points_of
from bert_jax.sweeps.page import render
from bert_jax.verify.checks import check_batches, compare, verify, verify_page, verify_sweep


@pytest.fixture
def run(two_phase_run, tmp_path):
    """A copy of a finished run of two phases."""
    shutil.copytree(two_phase_run[0], tmp_path / "run")
    return tmp_path / "run"


def differences(workdir):
    """Returns the hashes that differ. No update is made, so that nothing is compiled."""
    return [check for check in verify(workdir, rows=0) if not check.agrees]


def change(file):
    """Changes a byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_hashes_agree_with_those_of_the_run(run):
    checks = list(verify(run, rows=0))
    assert len(checks) > 5 and all(check.agrees for check in checks), checks
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"config_hash": "0" * 12}))
    (different,) = differences(run)
    assert different.subject == "config" and different.said.endswith("in result.json 000000000000")


def test_a_run_of_an_earlier_version_has_other_hashes(tmp_path, monkeypatch):
    """Its config has a hash of format 1, and its checkpoints have no SHA-256."""
    shutil.unpack_archive(Path(__file__).parent / "goldens" / "runs" / "runs.tar.xz", tmp_path)
    monkeypatch.chdir(tmp_path)
    found = {check.subject: check for check in verify(Path("one_phase"), rows=0)}
    assert all(check.agrees for check in found.values()), found
    assert found["config"].said.endswith("in result.json bc56393585ed of an earlier format")
    assert found["checkpoint 8"].said.startswith("no SHA-256 of its files is stored")


@pytest.mark.parametrize(
    ("changed", "subject", "said"),
    [
        ("metrics.jsonl", "rows up to step", "other rows than when step"),
        ("checkpoints/*/state/manifest.ocdbt", "checkpoint", "manifest.ocdbt"),
        ("checkpoints/*/tokenizer/metadata", "checkpoint", "tokenizer/metadata"),
    ],
)
def test_a_changed_byte_is_found_where_it_is(changed, subject, said, run):
    file = max(run.glob(changed))
    change(file)
    different = differences(run)
    assert different, file
    assert all(check.subject.startswith(subject) and said in check.said for check in different)


def test_a_changed_byte_of_the_data_is_found(run):
    directory = Path(json.loads((run / "config.json").read_text())["data"]["directory"])
    shard = min(directory.glob("train-*.array_record"))
    content = shard.read_bytes()
    try:
        change(shard)
        different = differences(run)
    finally:
        shard.write_bytes(content)
    assert [check.subject for check in different] == [f"data {directory}"]
    assert shard.name in different[0].said


def test_the_batches_of_a_row_have_as_many_predictions_as_its_accuracy_says(run):
    experiment = load(str(run / "config.json"))
    rows = read_rows(run / "metrics.jsonl").rows
    checks = list(check_batches(run, experiment, rows, count=len(rows)))
    assert len(checks) == len(rows) - 1 and all(check.agrees for check in checks), checks
    assert checks[0].subject == "batches 4 to 5" and "predictions" in checks[0].said
    other = override(experiment, {"seed": 1})  # other records and other masks
    assert not all(check.agrees for check in check_batches(run, other, rows, count=len(rows)))


def test_the_tables_of_a_sweep_follow_from_its_runs(run, tmp_path):
    experiment, sweep = load(str(run / "config.json")), tmp_path / "sweep"
    for name in ("a", "b"):
        shutil.copytree(run, sweep / name)
    tuned = {"choice": {}, "trials": {}, "flops": 2e9, "seconds": 3.0}  # as of tune_over()
    (sweep / "tuning.json").write_text(json.dumps({"a": tuned}))
    runs = [PlannedRun(name, {}, experiment, tuning=tuned) for name in ("a", "b")]
    with (sweep / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "eval/probe_accuracy": 0.75}\n')
    summarize(points_of(runs), sweep)
    assert "probe_accuracy\na,done" in (sweep / "summary.csv").read_text()
    checks = list(verify_sweep(sweep, rows=0))
    assert all(check.agrees for check in checks), checks
    assert {"a config", "b config", "table.md", "table.csv"} <= {one.subject for one in checks}

    (sweep / "b" / "result.json").write_text(
        json.dumps(json.loads((run / "result.json").read_text()) | {"mlm_loss": 1.0})
    )
    different = [check for check in verify_sweep(sweep, rows=0) if not check.agrees]
    assert [one.subject for one in different] == ["table.md", "table.tex", "table.csv"], different
    assert different[2].said == "line 2 does not follow from the results of the runs"
    (sweep / "summary.csv").write_text("id,status\nb,done\na,failed\n")  # another order and status
    different = [check.subject for check in verify_sweep(sweep, rows=0) if not check.agrees]
    assert "table.csv" in different
    (sweep / "summary.csv").write_text("id,status\na,begun\nb,done\n")
    with pytest.raises(
        ConfigError, match="summary.csv: the number of unfinished runs is 1; accepted: 0"
    ):
        list(verify_sweep(sweep, rows=0))


def test_the_page_of_a_report_follows_from_its_runs(run, tmp_path, monkeypatch):
    """The page has the directories as they were given, relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    page = Path("report.html")
    page.write_text(render(gather([Path("run")]), title="Mine"))
    checks = list(verify_page(page, rows=0))
    assert all(check.agrees for check in checks), checks
    assert {"run config", "report.html"} <= {one.subject for one in checks}
    text = page.read_text()
    loss = json.loads((run / "result.json").read_text())["mlm_loss"]
    page.write_text(text.replace(f"<td>{loss:.4f}</td>", "<td>1.0000</td>"))
    different = [check for check in verify_page(page, rows=0) if not check.agrees]
    assert [one.subject for one in different] == ["report.html"]
    number = text[: text.index(f"<td>{loss:.4f}</td>")].count("\n") + 1
    assert different[0].said == f"line {number} does not follow from the results of the runs"
    page.write_text("<html></html>")
    with pytest.raises(DataError, match="report.html.*directories; accepted: a page of"):
        list(verify_page(page, rows=0))


def test_values_agree_bitwise_or_to_the_tolerance():
    row = {"step": 3, "train/loss": 2.0, "eval/loss": 1.0, "perf/tokens_per_second": 5.0}
    assert compare("row", row, row) == ("row", True, "2 values are equal bitwise")
    near = compare("row", row | {"train/loss": 2.001}, row)
    assert near.agrees and "train/loss is 2.001, written 2.0" in near.said
    assert not compare("row", row | {"train/loss": 2.01}, row).agrees
    assert not compare("row", {}, row).agrees


def test_a_run_that_has_not_ended_is_refused(tmp_path):
    result = run_command("verify", f"--run={tmp_path}")
    assert_one_line(
        result,
        "result.json cannot be read",
        "accepted: a file of a finished run, or the directory of a sweep",
    )


@pytest.mark.slow
def test_updates_and_evaluations_of_both_phases_are_made_again(run):
    checks = {check.subject: check for check in verify(run, rows=2)}
    assert all(check.agrees for check in checks.values()), checks
    again = [check for subject, check in checks.items() if subject.startswith("updates")]
    assert len(again) > 2 and all("equal bitwise" in check.said for check in again), again
    assert "equal bitwise" in checks["result.json"].said

    # A metric that was changed together with its hash is still found.
    file = run / "metrics.jsonl"
    first, *others = file.read_text().splitlines(keepends=True)
    row = json.loads(first)
    row["train/mlm_loss"] *= 1.01
    file.write_text("".join([json.dumps(row) + "\n", *others]))
    different = [check for check in verify(run) if not check.agrees]
    assert any("train/mlm_loss" in check.said for check in different)
