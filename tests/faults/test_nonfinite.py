"""A step whose loss or gradient is not finite changes nothing, is named, and can be left out."""

import json
import math
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from commands import free_port, start_code

from bert_jax.config import config_hash, override, to_json
from bert_jax.data.passport import join_passports, load_passport
from bert_jax.data.records import RecordSource
from bert_jax.errors import CheckpointError, DivergenceError
from bert_jax.faults import signals
from bert_jax.sharding import make_mesh
from bert_jax.training import checkpoint
from bert_jax.training import train as loop
from bert_jax.training.build import assemble
from bert_jax.training.config import TrainingConfig
from bert_jax.training.experiment import phases
from bert_jax.training.metrics import Mean
from bert_jax.training.nonfinite import NonFiniteSteps, Rollback
from bert_jax.training.phases import files_of_step, training_batches
from bert_jax.training.state import abstract_state, make_state
from bert_jax.training.train import train
from bert_jax.training.writer import RunWriter


@pytest.fixture(scope="module")
def short(experiment):
    """12 updates with rows at 5, 6, 10 and 12, and checkpoints at 6 and 12."""
    return override(experiment, {"training.log_every": 5})


def poison(steps, field="pair_weights"):
    """Returns a `training_batches` with NaN as weights in the batches of the given steps."""

    def poisoned(phase, first_step, *arguments):
        start = max(first_step, phase.first_step) + 1
        for step, batch in enumerate(training_batches(phase, first_step, *arguments), start):
            if step in steps:
                batch = batch._replace(**{field: np.nan * getattr(batch, field)})
            yield batch

    return poisoned


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`run(experiment, steps)` trains in `tmp_path`/run with the batches of `steps` poisoned."""

    def run(experiment, steps, name="run", **changes):
        monkeypatch.setattr(loop, "training_batches", poison(steps))
        changes = {f"training.{field}": value for field, value in changes.items()}
        return train(override(experiment, changes), tmp_path / name)

    return run


def without(experiment, steps):
    """Returns the last state of a run that never sees the batches of `steps`."""
    state, mesh = None, make_mesh(experiment.mesh)
    with jax.set_mesh(mesh):
        for phase in phases(experiment):
            assembly = assemble(phase, mesh)
            if state is None:
                state = make_state(assembly.initialize, assembly.sharding)
            else:
                state = assembly.begin(state)
            for step, batch in enumerate(training_batches(phase, 0), phase.first_step + 1):
                if step in steps:
                    counted: Any = state.opt_state
                    *others, schedule = counted
                    opt_state = (*others, type(schedule)(count=state.step + 1))
                    state = replace(state, step=state.step + 1, opt_state=opt_state)
                else:
                    state, _ = assembly.update(state, assembly.place(batch))
    return state


def saved(experiment, workdir, step=12):
    """Returns the state of a checkpoint."""
    plan = phases(experiment)
    assembly = assemble(plan[0], make_mesh(experiment.mesh))
    abstract = abstract_state(assembly.initialize, assembly.sharding)
    passports = [load_passport(phase.experiment.data.directory) for phase in plan]
    with checkpoint.open_checkpoints(workdir, read_only=True) as manager:
        passport = join_passports(passports)
        return checkpoint.restore(manager, abstract, step=step, passport=passport).state


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(first).tobytes() == np.asarray(second).tobytes()


def rows_of(workdir):
    """Returns the rows of metrics.jsonl without the fields that depend on time."""
    assert "NaN" not in (workdir / "metrics.jsonl").read_text()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "perf/" not in k} for line in lines]


def record_of(workdir):
    return json.loads((workdir / "nonfinite.json").read_text())["steps"]


def steps_in(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}


# ---- stop -------------------------------------------------------------------------------------


BAD = [8, 9, 11]


@pytest.fixture(scope="module")
def expected(short):
    return without(short, BAD)


def test_the_run_stops_and_names_step_parameters_and_examples(short, run, expected, tmp_path):
    """Step 8 lies within the row that ends at step 10. The pair loss has no share in the MLM head.

    With skip, the same run goes on from its checkpoint.
    """
    with pytest.raises(DivergenceError) as error:
        run(short, BAD)
    said, workdir = str(error.value), tmp_path / "run"
    assert "train/loss is nan at step 8; accepted: finite values" in said and "\n" not in said
    assert steps_in(workdir) == {6} and [row["step"] for row in rows_of(workdir)] == [5, 6]
    found = record_of(workdir)["8"]
    assert found["action"] == "stop" and found["loss"] == "nan"
    names = set(found["parameters"])
    assert "next_sentence_head/dense/kernel" in names
    assert not [name for name in names if name.startswith("masked_token")]
    assert f"not finite: {found['parameters'][0]}, " in said

    records = [(file, record) for file, numbers in found["files"].items() for record in numbers]
    assert len(records) == short.data.batch_size
    assert f"Examples: {records[0][0]} record {records[0][1]}, " in said

    run(short, BAD, on_nonfinite="skip")
    check_left_out(workdir, short, expected, "skip")


def check_left_out(workdir, experiment, expected, mode):
    assert_same_bits(saved(experiment, workdir), expected)
    skipped = {row["step"]: row.get("train/skipped_updates", 0) for row in rows_of(workdir)}
    assert skipped == {5: 0, 6: 0, 10: 2, 12: 1}
    actions = {int(step): found["action"] for step, found in record_of(workdir).items()}
    assert actions == dict.fromkeys(BAD, mode)
    assert (workdir / "result.json").exists()


def test_the_named_records_are_those_of_the_batch(two_phases):
    """Step 10 is the second step of the second phase."""
    plan = phases(two_phases)
    batch = next(training_batches(plan[1], 9))
    ids = np.array(batch.token_ids)
    for row, slot in np.argwhere(batch.mask_weights > 0):
        ids[row, batch.mask_positions[row, slot]] = batch.mask_labels[row, slot]
    read, passport = [], load_passport(plan[1].experiment.data.directory)
    for file, numbers in files_of_step(plan, 10).items():
        for (pair,) in RecordSource([file], passport).rows(numbers):
            special = ids[0, 0], ids[0, batch.padding_mask[0].sum() - 1]
            read.append([special[0], *pair.a, special[1], *pair.b, special[1]])
    kept = [row[mask].tolist() for row, mask in zip(ids, batch.padding_mask, strict=True)]
    assert sorted(kept) == sorted(read)


@pytest.mark.slow
def test_an_update_that_overflows_stops_at_the_step_after_it(experiment, tmp_path):
    """The first update is finite. The loss of the second step is not."""
    changes = {
        **{"optimizer.learning_rate": 1e30, "optimizer.warmup_steps": 0},
        **{"model.num_layers": 1, "training.log_every": 5},
    }
    wild = override(experiment, changes)
    for mode in ("stop", "rollback", "skip"):
        changed = override(wild, {"training.on_nonfinite": mode, "training.max_nonfinite": 3})
        with pytest.raises(DivergenceError, match=f"at step {2 if mode == 'stop' else 5}"):
            train(changed, tmp_path / mode)
        assert not steps_in(tmp_path / mode)


# ---- skip and rollback --------------------------------------------------------------------------


def test_after_a_rollback_the_run_is_one_without_the_batches(short, run, expected, tmp_path):
    """Three times, the run goes back to step 6, before it saves another checkpoint."""
    run(short, BAD, on_nonfinite="rollback")
    check_left_out(tmp_path / "run", short, expected, "rollback")


@pytest.mark.slow
def test_a_run_ends_when_it_would_leave_out_too_many_updates(short, run, tmp_path):
    """A resumed run counts the updates that were left out before."""
    for _ in range(2):
        with pytest.raises(DivergenceError, match="at step 8; accepted: at most 1 .*max_nonfinite"):
            run(short, [3, 8], on_nonfinite="skip", max_nonfinite=1)
    assert steps_in(tmp_path / "run") == {6}


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        pytest.param("rollback", {}, marks=pytest.mark.long),
        pytest.param("skip", {"training.microbatches": 2}, marks=pytest.mark.slow),
    ],
)
def test_phases_and_microbatches(mode, changes, two_phases, run, tmp_path):
    """The last step of the first phase, the first two of the second, and the last of the run."""
    bad, experiment = [8, 9, 10, 12], override(two_phases, changes)
    run(experiment, bad, on_nonfinite=mode)
    assert_same_bits(saved(experiment, tmp_path / "run"), without(experiment, bad))


@pytest.mark.slow
def test_a_row_without_any_update_has_no_mean(short, run, tmp_path):
    run(short, [1, 2, 3, 4, 5], on_nonfinite="rollback")
    first, second, *_ = rows_of(tmp_path / "run")
    assert first == {"step": 5, "train/skipped_updates": 5}
    assert "train/loss" in second and "train/skipped_updates" not in second


@pytest.mark.parametrize(
    ("mode", "signalled"),
    [
        pytest.param("skip", 8, marks=pytest.mark.slow),
        pytest.param("rollback", 8, marks=pytest.mark.long),
        pytest.param("rollback", 10, marks=pytest.mark.long),
        pytest.param("stop", 9, marks=pytest.mark.slow),
    ],
)
def test_a_signal_within_a_row_with_such_a_step_saves_no_bad_state(
    mode, signalled, short, run, tmp_path, monkeypatch
):
    asked, steps = signals.Notice.reached, iter(range(1, 100))

    def send_once(notice):
        if next(steps) == signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        return asked(notice)

    monkeypatch.setattr(signals.Notice, "reached", send_once)
    expected = DivergenceError if mode == "stop" else signals.Interrupted
    with pytest.raises(expected):
        run(short, [8], on_nonfinite=mode)
    assert 6 in steps_in(tmp_path / "run")
    if mode == "stop":
        assert steps_in(tmp_path / "run") == {6}
        return
    run(short, [8], on_nonfinite=mode)
    assert_same_bits(saved(short, tmp_path / "run"), without(short, [8]))
    monkeypatch.setattr(signals.Notice, "reached", asked)
    run(short, [8], "alone", on_nonfinite=mode)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "alone")


# ---- Rows -------------------------------------------------------------------------------------


def metrics(loss):
    finite = np.isfinite([loss, 1.0])
    values = {"loss": loss, "grad_norm": 1.0, "tokens": 10.0}
    row = {name: Mean(np.float32(value), 1.0) for name, value in values.items()}
    return row | {"finite": Mean(finite, 1.0)}


def test_a_row_is_the_mean_over_its_updates_also_after_a_restart(tmp_path):
    config, found = TrainingConfig(steps=9), []

    def add(step, metrics):
        found.append((step, float(metrics["loss"].total)))

    def write(step, pending=()):
        return RunWriter(tmp_path, config, step, pending=pending, on_nonfinite=add)

    with write(0) as writer:
        writer.add(metrics(1.0))
        writer.add(metrics(math.inf))
        writer.add({})
        writer.add(metrics(2.0))
        pending = writer.pending()
        assert found == [(2, math.inf)] and pending[1:3] == [{}, {}]
        json.dumps(pending, allow_nan=False)
    with write(4, pending) as writer:
        writer.add(metrics(6.0))
        row = writer.read_row()
        assert row["train/loss"] == 3.0 and row["train/skipped_updates"] == 2
        assert "train/finite" not in row and row["perf/tokens_per_second"] > 0
        writer.add({})
        row = writer.read_row()
        assert row == {"train/skipped_updates": 1, "perf/tokens_per_second": 0.0}
    assert found == [(2, math.inf)]


def test_a_value_of_a_pending_row_that_is_not_finite_is_named_with_its_step(tmp_path):
    with RunWriter(tmp_path, TrainingConfig(steps=9), 4) as writer:
        writer.add(metrics(1.0))
        writer.add(metrics(math.nan))
        with pytest.raises(DivergenceError, match="train/loss is nan at step 6; accepted"):
            writer.pending()


# ---- The record -------------------------------------------------------------------------------


WITH = '{"format_version": 1, "steps": '


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "\0\0", "\udc80", '{"format_version": 2, "steps": {}}'),
        *(WITH + "3}", WITH + '{"x": {"action": "skip"}}}', WITH + '{"3": 1}}'),
        *(WITH + '{"3": {}}}', WITH + '{"3": {"action": "go"}}}'),
    ],
)
def test_a_damaged_record_is_one_line(content, experiment, tmp_path):
    (tmp_path / "nonfinite.json").write_text(content, errors="surrogateescape")
    with pytest.raises(CheckpointError, match="nonfinite.json") as error:
        NonFiniteSteps(tmp_path, experiment, {})
    assert "\n" not in str(error.value)


def test_the_record_is_read_again_and_names_the_norm_if_it_alone_overflows(experiment, tmp_path):
    experiment = override(experiment, {"training.on_nonfinite": "rollback"})
    metrics = {
        "loss": Mean(np.float32(7), 1.0),
        "grad_norm": Mean(np.float32(np.inf), 1.0),
        "finite": Mean(np.array([True, False, True, True]), 1.0),
    }
    for step in (5, 2):
        with pytest.raises(Rollback):
            NonFiniteSteps(tmp_path, experiment, {"a": 0, "b": {"c": 0}}).add(step, metrics)
    assert NonFiniteSteps(tmp_path, experiment, {}).left_out == {2, 5}
    assert list(record_of(tmp_path)) == ["2", "5"]
    found = record_of(tmp_path)["2"]
    assert (found["loss"], found["grad_norm"], found["parameters"]) == ("7.0", "inf", [])
    fewer = override(experiment, {"training.max_nonfinite": 1})
    with pytest.raises(DivergenceError, match=r"accepted: at most 1 such steps \(training.max_non"):
        NonFiniteSteps(tmp_path, fewer, {"a": 0, "b": {"c": 0}}).add(7, metrics)


def test_the_fields_change_neither_the_hash_of_a_config_nor_the_run(experiment):
    changed = override(experiment, {"training.on_nonfinite": "stop", "training.max_nonfinite": 10})
    assert config_hash(changed) == config_hash(experiment)
    assert {"training.on_nonfinite", "training.max_nonfinite"} <= set(checkpoint.RESUMABLE)


# ---- The command: killed, and as two processes --------------------------------------------------

PRETRAIN = """
import runpy, sys
sys.path.insert(0, {tests!r})
from faults.test_nonfinite import poison
from bert_jax.training import train
train.training_batches = poison({steps!r})
sys.argv = ["pretrain", *{arguments!r}]
runpy.run_module("bert_jax.pretrain", run_name="__main__")
"""


def start(config, workdir, steps, *more, devices=1):
    arguments = [f"--experiment={config}", f"--workdir={workdir}", *more]
    tests = str(Path(__file__).parents[1])
    code = PRETRAIN.format(tests=tests, steps=steps, arguments=arguments)
    return start_code(code, devices=devices)


def last_row(workdir):
    """Returns the step of the last whole row of metrics.jsonl, or 0."""
    file = workdir / "metrics.jsonl"
    rows = file.read_text().splitlines(keepends=True) if file.exists() else []
    return max((json.loads(row)["step"] for row in rows if row.endswith("\n")), default=0)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_kill_9_at_any_time_changes_nothing(mode, short, tmp_path):
    bad = [7, 12, 31, 32, 55]
    changes = {
        **{"training.steps": 60, "training.on_nonfinite": mode, "training.log_every": 7},
        **{"training.checkpoint_every": 10, "training.eval_every": 30},
    }
    experiment = override(short, changes)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(experiment)))
    workdir, kills, rng = tmp_path / "killed", 0, random.Random(mode)
    for step in sorted(rng.sample(range(60), 2)):
        process = start(config, workdir, bad)
        while last_row(workdir) < step and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 1
    assert start(config, workdir, bad).wait(timeout=300) == 0
    alone = start(config, tmp_path / "alone", bad)
    assert alone.wait(timeout=300) == 0
    assert rows_of(workdir) == rows_of(tmp_path / "alone")
    assert record_of(workdir) == record_of(tmp_path / "alone")
    assert_same_bits(saved(experiment, workdir, 60), saved(experiment, tmp_path / "alone", 60))


@pytest.mark.long
@pytest.mark.parametrize("mode", ["skip", "rollback", "stop"])
def test_two_processes_decide_alike(mode, short, tmp_path):
    changes = {"mesh.fsdp": 2, "training.on_nonfinite": mode}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(override(short, changes))))
    address = f"--coordinator=127.0.0.1:{free_port()}"
    processes = [
        start(
            config,
            tmp_path / "run",
            [4, 8],
            *(address, "--process_count=2", f"--process_index={index}"),
            devices=1,
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [2 if mode == "stop" else 0] * 2, said
    if mode == "stop":
        assert "train/loss is nan at step 4" in said[0] and not steps_in(tmp_path / "run")
        return
    assert set(record_of(tmp_path / "run")) == {"4", "8"}
    if mode == "rollback":
        return  # the other mode is compared with one process
    one = start(config, tmp_path / "one", [4, 8], devices=2)
    assert one.wait(timeout=200) == 0
    # Two processes add the gradients in another order than one.
    for row, other in zip(rows_of(tmp_path / "run"), rows_of(tmp_path / "one"), strict=True):
        assert row.keys() == other.keys()
        assert row.get("train/skipped_updates") == other.get("train/skipped_updates")
        if "train/mlm_loss" in row:
            assert row["train/mlm_loss"] == pytest.approx(other["train/mlm_loss"], rel=1e-5)
