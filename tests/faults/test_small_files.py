"""A damaged small file costs at most itself: the command goes on and says so, or ends in a line."""

import json
import os
import random
import shutil

import jax.numpy as jnp
import pytest
from commands import no_file_longer_than
from event_files import assert_tensorboard_has_the_rows
from same_run import UNTIMED

from bert_jax import environment, load_run
from bert_jax.config import override
from bert_jax.errors import CheckpointError, DataError
from bert_jax.faults.run_files import RowsFile, RunResult, read_rows, whole_rows
from bert_jax.files import read_json_if_whole, write_json
from bert_jax.sweeps.runs import result_of, status
from bert_jax.training.checkpoint import check_workdir
from bert_jax.training.config import TrainingConfig
from bert_jax.training.metrics import Mean
from bert_jax.training.train import train
from bert_jax.training.writer import RunWriter

DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "NULs": lambda content: bytes(len(content)),
    "not UTF-8": lambda content: b"\xff" + content,
    "a list": lambda content: b"[1]",
    "null": lambda content: b"null",
    "nested": lambda content: b"[" * 100_000,
    "long number": lambda content: b'{"a": ' + b"9" * 10_000 + b"}",
}


RESULT = dict.fromkeys(RunResult.__annotations__, 1.5) | {"steps": 12}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_result_is_named_and_counts_as_none(damage, tmp_path, capsys):
    file = tmp_path / "result.json"
    write_json(file, RESULT)
    assert read_json_if_whole(file, RunResult) == result_of(tmp_path) == RESULT
    file.write_bytes(damage(file.read_bytes()))
    assert read_json_if_whole(file, RunResult) == result_of(tmp_path) == {}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(file) in said and "counts as missing" in said
    assert status(tmp_path) == "to do"


@pytest.mark.parametrize("value", [None, "1", True, [1.0]])
def test_a_result_without_its_numbers_is_damaged(value, tmp_path, capsys):
    write_json(tmp_path / "result.json", RESULT | {"mlm_loss": value})
    assert read_json_if_whole(tmp_path / "result.json", RunResult) == {}
    assert "mlm_loss" in capsys.readouterr().err
    assert status(tmp_path) == "to do"


def test_a_missing_file_is_no_damage(tmp_path, capsys):
    assert read_json_if_whole(tmp_path / "result.json") == result_of(tmp_path) == {}
    assert capsys.readouterr().err == ""


# ---- metrics.jsonl ----------------------------------------------------------------------------

LINES = [b'{"step": %d, "train/loss": 1.5}\n' % step for step in (2, 4, 6, 8)]


@pytest.mark.parametrize(
    ("content", "kept", "damaged"),
    [
        (LINES, [0, 1, 2, 3], []),
        ([LINES[0], b"\n", *LINES[1:]], [0, 1, 2, 3], [2]),
        ([LINES[0], bytes(20) + b"\n", LINES[2]], [0, 2], [2]),
        ([b"\xff\xfe\n", LINES[1]], [1], [1]),
        ([LINES[0], b'{"train/loss": 1.5}\n', LINES[1]], [0, 1], [2]),
        ([LINES[0], b'{"step": true}\n', b'{"step": "4"}\n', b'{"step": 4.0}\n'], [0], [2, 3, 4]),
        ([b"[1]\n", b"null\n", b"4\n", LINES[3]], [3], [1, 2, 3]),
        ([b'{"step": 2, "train/loss": "1"}\n', LINES[1]], [1], [1]),
        ([*LINES, *LINES], [0, 1, 2, 3], [5, 6, 7, 8]),
        ([LINES[1], LINES[0], LINES[2]], [0, 1, 2], []),
        ([b"[" * 100_000 + b"\n", LINES[0]], [0], [1]),
        ([LINES[0], LINES[1][:12]], [0], []),  # an incomplete last line
        ([], [], []),
    ],
)
def test_damaged_rows_are_left_out_and_named(content, kept, damaged, tmp_path, capsys):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"".join(content))
    stored = read_rows(file)
    assert list(stored.lines.values()) == [LINES[number] for number in kept]
    assert stored.damaged == damaged
    assert whole_rows(file) == [json.loads(LINES[number]) for number in kept]
    said = capsys.readouterr().err
    assert said.count("\n") == bool(damaged)
    for number in damaged[:5]:
        assert f"{number}" in said
    RowsFile(file, 6, None)
    assert file.read_bytes() == b"".join(LINES[number] for number in kept if number < 3)


def test_rows_that_are_a_pipe_or_a_device_end_in_a_line(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")  # a directory of another user may hold both
    for name in ("pipe", "link"):
        with pytest.raises(DataError, match=f"{name} cannot be read .it is a device or a pipe"):
            whole_rows(tmp_path / name)


def metrics(loss):
    mean = Mean(jnp.float32(loss), jnp.float32(1))
    return {"loss": mean, "mlm_loss": mean, "mlm_accuracy": mean, "tokens": mean}


def write_run(workdir, steps, *, first_step=0, written=None):
    """Writes a row at each even step, as `train` does. Returns the description of the rows."""
    config = TrainingConfig(steps=100)
    with RunWriter(workdir, config, first_step, written=written) as writer:
        for step in range(first_step + 1, steps + 1):
            writer.add(metrics(1 / step))
            if step % 2 == 0:
                writer.write(step, writer.read_row())
        return writer.synchronize()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content, ""),
        (lambda content: content + b'{"step": 12, "tra', ""),
        (lambda content: content[: len(content) // 2], "3 of 5 rows up to step 10 are lost"),
        (lambda content: b"", "5 of 5 rows up to step 10 are lost"),
        (lambda content: content + content, "doubled lines left out: 6, 7, 8, 9, 10"),
        (lambda content: content.replace(b"0.75", b"0.25"), "rows have changed since step 10 was"),
        (
            lambda content: content.replace(b'{"step": 4', b"{"),
            "doubled lines left out: 2; 1 of 5",
        ),
    ],
)
def test_a_resumed_run_says_which_rows_are_lost(change, said, tmp_path, capsys):
    written = write_run(tmp_path, 10)
    assert written is not None and written.count == 5
    capsys.readouterr()
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(change(file.read_bytes()))
    write_run(tmp_path, 14, first_step=10, written=written)
    lines = [line for line in capsys.readouterr().err.splitlines() if "metrics.jsonl" in line]
    assert len(lines) == bool(said) and said in "".join(lines)
    steps = [row["step"] for row in whole_rows(file)]
    assert steps == sorted(set(steps)) and steps[-2:] == [12, 14]


def test_a_lost_file_of_rows_is_reported(tmp_path, capsys):
    written = write_run(tmp_path, 10)
    (tmp_path / "metrics.jsonl").unlink()
    capsys.readouterr()
    write_run(tmp_path, 12, first_step=10, written=written)
    assert "5 of 5 rows up to step 10 are lost" in capsys.readouterr().err


# ---- TensorBoard ------------------------------------------------------------------------------


def test_tensorboard_has_each_row_once_after_a_kill_at_any_byte(tmp_path):
    """A kill leaves any part of what was written after the last checkpoint, here of step 6."""
    rng = random.Random(0)
    written = write_run(tmp_path / "run", 6)
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    saved = events.stat().st_size
    for kill in range(20):
        run = tmp_path / f"run{kill}"
        shutil.copytree(tmp_path / "run", run)
        first, killed = 6, write_run(run, 6 + rng.randrange(1, 9), first_step=6, written=written)
        newest = max((run / "tensorboard").iterdir())
        assert saved and killed
        newest.write_bytes(newest.read_bytes()[: rng.randrange(newest.stat().st_size)])
        write_run(run, 14, first_step=first, written=written)
        assert_tensorboard_has_the_rows(run)
        assert [row["step"] for row in whole_rows(run / "metrics.jsonl")] == [
            2,
            4,
            6,
            8,
            10,
            12,
            14,
        ]


def test_rows_are_in_tensorboard_before_the_writer_ends(tmp_path):
    with RunWriter(tmp_path, TrainingConfig(steps=4), 0) as writer:
        writer.add(metrics(1.0))
        writer.write(1, writer.read_row())
        assert_tensorboard_has_the_rows(tmp_path)


# ---- A full disk ------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "file"), [(1000, "metrics.jsonl"), (30, "events.out.tfevents")])
def test_a_full_disk_is_noticed_by_the_write_that_fails(limit, file, tmp_path):
    """After the disk has space again, the run leaves what an undisturbed run leaves."""
    written = write_run(tmp_path, 2)
    (tmp_path / "metrics.jsonl").rename(tmp_path / "rows")
    with no_file_longer_than(limit), pytest.raises(OSError, match="File too large") as error:
        write_run(tmp_path, 40, first_step=2)
    assert file in str(error.value)
    (tmp_path / "rows").rename(tmp_path / "metrics.jsonl")
    write_run(tmp_path, 40, first_step=2, written=written)
    assert_tensorboard_has_the_rows(tmp_path)
    assert list(read_rows(tmp_path / "metrics.jsonl").rows) == list(range(2, 41, 2))


# ---- train() ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, train(experiment, workdir)


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_checkpoint_that_cannot_be_written_ends_the_run(finished, experiment, tmp_path):
    workdir = tmp_path / "run"
    with no_file_longer_than(30_000), pytest.raises(CheckpointError) as error:
        train(experiment, workdir)
    said = str(error.value)
    assert "a checkpoint cannot be written" in said and "File too large" in said
    assert "\n" not in said
    assert not (workdir / "result.json").exists()
    assert not [path for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    result = train(experiment, workdir)
    assert result | UNTIMED == finished[1] | UNTIMED
    assert_tensorboard_has_the_rows(workdir)


def test_a_damaged_result_is_written_again(run, experiment, finished, capsys):
    """So is a damaged environment.json, and temporary files of a killed process change nothing."""
    (run / "result.json").write_bytes(b"{}")
    (run / "environment.json").write_bytes(bytes(100))
    for name in ("result.json", "config.json", "environment.json", "metrics.jsonl"):
        (run / f"{name}.tmp").write_text("{")
    (run / "checkpoints" / "16.orbax-checkpoint-tmp-1").mkdir()
    result = train(experiment, run)
    assert result | UNTIMED == finished[1] | UNTIMED
    assert json.loads((run / "result.json").read_text()) == result
    assert json.loads((run / "environment.json").read_text())["versions"]
    said = capsys.readouterr().err
    assert said.count("damaged file, which counts as missing: ") == 2
    assert not list((run / "checkpoints").glob("16*"))


@pytest.mark.parametrize("earlier", [None, 5, [1]])
def test_the_environment_is_described_whatever_the_file_holds(earlier, tmp_path):
    write_json(tmp_path / "environment.json", {"earlier": earlier})
    assert environment.describe_again(tmp_path / "environment.json")["versions"]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_config_ends_the_run_with_a_line(damage, run, experiment):
    (run / "config.json").write_bytes(damage((run / "config.json").read_bytes()))
    with pytest.raises(CheckpointError, match="config.json.*; accepted: the file as it was"):
        check_workdir(run, experiment)


def test_metrics_in_a_notebook_leave_out_damaged_rows(run, capsys):
    before = load_run(run).metrics()
    file = run / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"\n", *lines[1:]]))
    assert load_run(run).metrics() == before
    assert "metrics.jsonl: damaged or doubled lines left out: 2\n" in capsys.readouterr().err


def test_another_interval_of_saves_needs_a_multiple(experiment):
    changes = {"training.keep_every": 9, "training.checkpoint_every": 6}
    with pytest.raises(ValueError, match="keep_every is 9; accepted: null, or a multiple of"):
        override(experiment, changes)
