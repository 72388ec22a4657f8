"""The files of a run: metrics that survive a kill, the result, and the environment."""

import json
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import bert_jax
from bert_jax.config import config_hash, override
from bert_jax.errors import CheckpointError, DivergenceError
from bert_jax.files import write_json
from bert_jax.training.config import TrainingConfig
from bert_jax.training.metrics import Mean
from bert_jax.training.train import train
from bert_jax.training.writer import RunWriter

CONFIG = TrainingConfig(steps=10)


def metrics(loss, weight=1.0):
    return {
        "loss": Mean(jnp.float32(loss), jnp.float32(1)),
        "mlm_loss": Mean(jnp.float32(loss * weight), jnp.float32(weight)),
        "mlm_accuracy": Mean(jnp.float32(0), jnp.float32(weight)),
        "tokens": Mean(jnp.float32(100), jnp.float32(1)),
    }


def steps_of(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]


@pytest.mark.parametrize("tail", ["", '{"step": 9, "tra', '{"step": 4', "{", '{"step": 9}'])
def test_rows_after_the_checkpoint_and_a_truncated_line_are_dropped(tail, tmp_path):
    rows = "".join(f'{{"step": {step}, "train/loss": 1.5}}\n' for step in (2, 4, 6, 8))
    (tmp_path / "metrics.jsonl").write_text(rows + tail)
    with RunWriter(tmp_path, CONFIG, 4) as writer:
        writer.add(metrics(2.0))
        writer.write(5, writer.read_row())
    kept = (tmp_path / "metrics.jsonl").read_text()
    assert kept.startswith("".join(rows.splitlines(keepends=True)[:2]))
    assert steps_of(tmp_path) == [2, 4, 5]


def test_a_new_run_overwrites_old_rows(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with RunWriter(tmp_path, CONFIG, 0):
        assert steps_of(tmp_path) == []


@pytest.mark.parametrize("step", [0, 4])
def test_no_row_is_written_through_a_link(step, tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "victim")
    with RunWriter(tmp_path / "run", CONFIG, step) as writer:
        writer.write(step + 1, {"train/loss": 1.0})
    assert steps_of(tmp_path / "run") == [step + 1]
    assert (tmp_path / "victim").read_text() == "precious"
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "nowhere")
    with RunWriter(tmp_path / "run", CONFIG, step) as writer:
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl is a symbolic link"):
            writer.write(step + 1, {"train/loss": 1.0})
    assert not (tmp_path / "nowhere").exists()


def test_the_loop_is_at_most_two_steps_ahead_of_the_devices(tmp_path):
    """A run with slow steps would otherwise wait for many of them at a row, as if it stalled."""
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 4, lambda _, x: x @ x / x.sum(), x))
    x = jax.block_until_ready(step(jnp.ones((512, 512))))
    results = []
    with RunWriter(tmp_path, CONFIG, 0) as writer:
        for number in range(6):
            x = step(x)
            results.append(x)
            writer.add({"loss": Mean(x, jnp.float32(1))})
            assert number < 2 or results[number - 2].is_ready()


def test_a_row_is_the_weighted_mean_over_its_steps(tmp_path):
    with RunWriter(tmp_path, CONFIG, 0) as writer:
        writer.add(metrics(1.0, weight=1))
        writer.add(metrics(4.0, weight=2))
        row = writer.read_row()
    assert row["train/mlm_loss"] == (1 + 8) / 3
    assert row["train/loss"] == 2.5 and "train/tokens" not in row
    assert row["perf/tokens_per_second"] > 0


def test_the_next_step_writes_an_ended_row(tmp_path):
    with RunWriter(tmp_path, CONFIG, 0) as writer:
        for step in range(1, 5):
            writer.add(metrics(float(step)))
            if step % 2 == 0:
                writer.end_row(step)
        assert steps_of(tmp_path) == [2]
        writer.add(metrics(5.0))
        assert steps_of(tmp_path) == [2, 4]
        assert writer.read_row()["train/loss"] == 5
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["train/loss"] for row in rows] == [1.5, 3.5]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_writes_no_row(loss, tmp_path):
    with RunWriter(tmp_path, CONFIG, 0) as writer:
        writer.add(metrics(1.0))
        writer.add(metrics(loss))
        with pytest.raises(DivergenceError, match="train/loss is"):
            writer.write(2, writer.read_row())
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["eval/loss", "eval/sentiment"])
def test_a_held_out_value_or_a_probe_that_is_not_finite_is_named(name, tmp_path):
    with RunWriter(tmp_path, CONFIG, 0) as writer:
        writer.add(metrics(1.0))
        with pytest.raises(DivergenceError, match=f"{name} is nan at step 2") as raised:
            writer.write(2, writer.read_row() | {name: math.nan})
    assert raised.value.status == 2 and not (tmp_path / "metrics.jsonl").exists()


def test_a_json_file_is_replaced_completely(tmp_path):
    file = tmp_path / "result.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


# ---- Files of train() -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return workdir, train(experiment, workdir)


def test_the_result_holds_metrics_baselines_and_config_hash(trained, experiment):
    workdir, result = trained
    assert json.loads((workdir / "result.json").read_text()) == result
    measured = {"mlm_loss", "mlm_accuracy", "nsp_accuracy"}
    baselines = {"unigram_loss", "majority_token_accuracy", "nsp_majority_accuracy"}
    assert measured | baselines | {"steps", "seconds", "config_hash", "format_version"} <= set(
        result
    )
    assert result["steps"] == 12 and result["seconds"] > 0 and result["format_version"] == 1
    spent = result["goodput"]["seconds"]
    assert spent.keys() == {"start", "compilation", "updates", "evaluation", "saving", "lost"}
    assert sum(spent.values()) == pytest.approx(result["seconds"], abs=0.4)  # rounded to 0.1 each
    assert 0 < result["goodput"]["share"] < 1 and spent["lost"] == 0
    assert result["config_hash"] == config_hash(experiment)
    assert all(0 <= result[name] <= 1 for name in result if name.endswith("accuracy"))
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 12 and row["eval/mlm_loss"] == result["mlm_loss"]


def test_environment_json_names_versions_devices_and_commit(trained):
    record = json.loads((trained[0] / "environment.json").read_text())
    assert record["command"] == sys.argv
    assert record["devices"] and record["device_kind"] and record["processes"] == 1
    assert record["xla_flags"] == os.environ["XLA_FLAGS"]
    assert record["libtpu_init_args"] == os.environ.get("LIBTPU_INIT_ARGS", "")
    assert record["scan_layers"] is False  # chosen for a CPU
    for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"):
        assert record["versions"][package] == __import__("importlib.metadata").metadata.version(
            package
        )
    commit = subprocess.run(
        ["git", "-C", os.path.dirname(bert_jax.__file__), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    assert (record["commit"] or "") == commit


@pytest.mark.slow
def test_a_diverging_update_leaves_no_result_or_checkpoint(experiment, tmp_path):
    """The training loss is computed before the update; the held-out loss after it is NaN.

    Otherwise result.json would not be valid JSON, and the checkpoint would hold NaN.
    """
    wild = override(
        experiment,
        {
            "model.num_layers": 1,
            "model.dropout": 0.0,
            "model.attention_dropout": 0.0,
            "optimizer.learning_rate": 1e30,
            "optimizer.warmup_steps": 0,
            "training.steps": 1,
        },
    )
    with pytest.raises(DivergenceError, match="optimizer.learning_rate"):
        train(wild, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "checkpoints" / "1").exists()
