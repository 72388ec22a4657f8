"""A killed and resumed run is bitwise equal to an uninterrupted run."""

import json
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from commands import start_command
from event_files import assert_tensorboard_has_the_rows
from same_run import UNTIMED, arrays_of, assert_same_bits, rows_of

from bert_jax.config import override, to_json
from bert_jax.data import pipeline
from bert_jax.errors import CheckpointError
from bert_jax.sharding import MeshConfig, make_mesh
from bert_jax.training.build import batch_sharding, place_batch
from bert_jax.training.train import train

STEPS, CHECKPOINT_EVERY = 90, 30
"""After the first checkpoint, 60 updates and an evaluation take about half a second. The test needs
only milliseconds of it to send its signal."""


def files_of(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# ---- A killed command -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(experiment, tmp_path_factory):
    """An experiment file: dropout, rows that end between checkpoints, about 29 updates an epoch."""
    long = override(
        experiment,
        {
            "training.steps": STEPS,
            "training.log_every": 7,
            "training.eval_every": 45,
            "training.checkpoint_every": CHECKPOINT_EVERY,
        },
    )
    assert long.model.dropout == long.model.attention_dropout == 0.1
    file = tmp_path_factory.mktemp("experiment") / "mine.py"
    file.write_text(
        "import json\n\nfrom bert_jax.config import from_json\n"
        "from bert_jax.training.experiment import Experiment\n\n\ndef get_config() -> Experiment:\n"
        f"    return from_json(Experiment, json.loads({json.dumps(to_json(long))!r}))\n"
    )
    return file


def start(file, workdir):
    arguments = (f"--experiment={file}", f"--workdir={workdir}")
    return start_command("pretrain", *arguments, stderr=subprocess.STDOUT)


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def kill_after_commit(process, step_directory):
    """Sends SIGKILL when the step's directory exists: orbax renames it to complete a checkpoint."""
    while not step_directory.exists():
        try:
            process.wait(timeout=0.002)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"ended before it was killed:\n{process.communicate()[0]}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_run_resumes_bitwise_like_an_uninterrupted_run(file, data_config, tmp_path):
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    kill_after_commit(start(file, killed), killed / "checkpoints" / str(CHECKPOINT_EVERY))
    assert not (killed / "result.json").exists()

    output = finish(start(file, killed))
    resumed_at = int(output.split("going on from step ")[1].split()[0])
    # The remaining steps include the start of an epoch, so a new order is drawn.
    passport = json.loads((Path(data_config.directory) / "passport.json").read_text())
    epoch = passport["splits"]["train"]["examples"] / data_config.batch_size
    assert CHECKPOINT_EVERY <= resumed_at < STEPS and STEPS - resumed_at > epoch

    finish(start(file, alone))
    assert rows_of(killed) == rows_of(alone)
    assert_tensorboard_has_the_rows(killed)
    assert [row["step"] for row in rows_of(alone)][:6] == [7, 14, 21, 28, 30, 35]
    assert_same_bits(arrays_of(killed, STEPS), arrays_of(alone, STEPS))
    results = [json.loads((run / "result.json").read_text()) for run in (killed, alone)]
    assert {**results[0], **UNTIMED} == {**results[1], **UNTIMED}
    # environment.json records both starts, the first in `earlier`.
    assert len(json.loads((killed / "environment.json").read_text())["earlier"]) == 1


# ---- In process: train() on a copy of a run that stopped at step 6 of 12 ----------------------


@pytest.fixture(scope="module")
def private(experiment, tmp_path_factory):
    """The experiment with a copy of the prepared data that a test may change."""
    directory = tmp_path_factory.mktemp("private") / "data"
    shutil.copytree(experiment.data.directory, directory)
    return override(experiment, {"data.directory": str(directory)})


@pytest.fixture(scope="module")
def finished(private, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, train(private, workdir)


@pytest.fixture
def stopped(finished, tmp_path):
    """The workdir of a killed run: it has rows after the last checkpoint and no result."""
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    (workdir / "result.json").unlink()
    return workdir


def test_a_finished_run_returns_its_result_and_changes_no_file(finished, private):
    workdir, result = finished
    before = files_of(workdir)
    assert train(private, workdir) == result == json.loads((workdir / "result.json").read_text())
    assert files_of(workdir) == before


def test_a_run_stopped_after_its_last_checkpoint_writes_the_same_result(
    finished, private, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    (workdir / "result.json").unlink()
    result = train(private, workdir)
    assert {**result, **UNTIMED} == {**finished[1], **UNTIMED}
    assert rows_of(workdir) == rows_of(finished[0])


def test_changed_intervals_change_no_number(finished, private, stopped):
    changed = override(
        private,
        {
            "training.log_every": 1,
            "training.eval_every": 4,
            "training.checkpoint_every": 5,
            "training.keep_checkpoints": 1,
        },
    )
    train(changed, stopped)
    assert [row["step"] for row in rows_of(stopped)] == [2, 4, 6, 7, 8, 9, 10, 11, 12]
    assert_same_bits(arrays_of(stopped, 12), arrays_of(finished[0], 12))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"data": 2, "fsdp": 2}], ids=["2x2x1"])
def test_losses_are_the_same_on_another_mesh(mesh, finished, private, stopped):
    train(override(private, {f"mesh.{axis}": size for axis, size in mesh.items()}), stopped)
    for row, other in zip(rows_of(finished[0]), rows_of(stopped), strict=True):
        assert row.keys() == other.keys()
        for name in ("train/mlm_loss", "train/nsp_loss", "eval/mlm_loss"):
            if name in row:
                # docs/scaling.md states 1e-5; another mask or dropout moves a loss by over 1e-2.
                assert other[name] == pytest.approx(row[name], rel=1e-5), (row["step"], name)


def test_examples_and_masks_are_bitwise_the_same_on_another_mesh(private):
    def placed(mesh_config, first_step):
        changed = override(private, {"mesh": mesh_config})
        place = partial(place_batch, sharding=batch_sharding(changed, make_mesh(mesh_config)))
        plan = pipeline.ReadPlan(config=private.data, seed=private.seed, num_steps=36)
        return list(map(place, pipeline.training_batches(plan, first_step=first_step)))

    # Update 36 is in the second epoch, and update 27 in the first.
    whole, resumed = placed(MeshConfig(data=1), 0), placed(MeshConfig(data=2, fsdp=4), 27)
    assert len(whole) == 36 and len(resumed) == 9
    for one, other in zip(whole[27:], resumed, strict=True):
        assert len(one.token_ids.devices()) == 1 and len(other.token_ids.devices()) == 8
        for name, left, right in zip(one._fields, one, other, strict=True):
            assert np.array_equal(np.asarray(left), np.asarray(right)), name
    assert not np.array_equal(np.asarray(whole[26].token_ids), np.asarray(whole[27].token_ids))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optimizer.learning_rate", 2e-3),
        ("seed", 1),
        ("training.steps", 24),
        ("model.dropout", 0.0),
        ("data.batch_size", 8),
        ("objective.mlm_reduction", "sum"),
    ],
)
def test_a_field_that_changes_numbers_is_refused_by_name(field, value, private, stopped):
    before = files_of(stopped)
    with pytest.raises(CheckpointError) as error:
        train(override(private, {field: value}), stopped)
    assert field in str(error.value) and repr(value) in str(error.value)
    assert files_of(stopped) == before


def test_changed_data_are_refused(private, stopped):
    """Settings and counts are the same; only the passport differs, as after a corrected corpus."""
    file = Path(private.data.directory) / "passport.json"
    original = file.read_bytes()
    passport = json.loads(original)
    passport["splits"]["train"]["bytes_read"] += 1
    file.write_text(json.dumps(passport))
    try:
        with pytest.raises(CheckpointError, match="data have changed since checkpoint 6"):
            train(private, stopped)
    finally:
        file.write_bytes(original)
    assert not (stopped / "result.json").exists()
