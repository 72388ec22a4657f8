"""`verify` agrees with what a run wrote, and says where one changed byte makes it differ."""

import json
import shutil
from pathlib import Path

import pytest
from commands import assert_one_line, run_command

from bert_jax.verify.checks import compare, verify


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


def test_values_agree_bitwise_or_to_the_tolerance():
    row = {"step": 3, "train/loss": 2.0, "eval/loss": 1.0, "perf/tokens_per_second": 5.0}
    assert compare("row", row, row) == ("row", True, "2 values are equal bitwise")
    near = compare("row", row | {"train/loss": 2.001}, row)
    assert near.agrees and "train/loss is 2.001, written 2.0" in near.said
    assert not compare("row", row | {"train/loss": 2.01}, row).agrees
    assert not compare("row", {}, row).agrees


def test_a_run_that_has_not_ended_is_refused(tmp_path):
    result = run_command("verify", f"--run={tmp_path}")
    assert_one_line(result, "has no result.json; accepted: a finished run of pretrain")


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
