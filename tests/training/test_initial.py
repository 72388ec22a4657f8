"""Continued pretraining takes only the weights, and refuses weights of another model."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from bert_jax.config import override, to_json
from bert_jax.errors import CheckpointError, ConfigError
from bert_jax.models.config import TaskHeadConfig
from bert_jax.runs.initial import open_initial_weights
from bert_jax.runs.load import load_run
from bert_jax.runs.save import save_run
from bert_jax.training import checkpoint
from bert_jax.training.initial import flatten_params
from bert_jax.training.train import train

PADDED = ("bert/embeddings/token", "masked_token_head/bias")


@pytest.fixture(scope="module")
def origin(experiment, tmp_path_factory):
    """A directory with a run of 12 updates and its weights in both formats."""
    directory = tmp_path_factory.mktemp("origin")
    train(experiment, directory / "run")
    for to in ("bert_jax", "huggingface"):
        (directory / to).mkdir()
        save_run(load_run(directory / "run"), directory / to, to=to)
    return directory


def start(experiment, workdir, **options):
    """Trains with the weights of `training.init_from`, as `pretrain` does."""
    return train(experiment, workdir, weights=open_initial_weights(experiment, workdir), **options)


@pytest.fixture
def still(experiment):
    """An experiment whose only update is too small to change a float32 parameter."""
    return override(
        experiment,
        {"optimizer.learning_rate": 1e-30, "optimizer.warmup_steps": 0, "training.steps": 1},
    )


@pytest.mark.parametrize(
    ("form", "mesh"),
    [
        pytest.param("run", {"mesh.fsdp": 2, "mesh.tensor": 2}, marks=pytest.mark.slow),
        ("bert_jax", {}),
        ("huggingface", {}),
    ],
)
def test_a_run_starts_from_the_weights_only(form, mesh, origin, still, tmp_path, capsys):
    """The weights may have any format. The run may be sharded; its step and optimizer are new."""
    continued = override(still, {"training.init_from": str(origin / form)} | mesh)
    start(continued, tmp_path / "run")
    before, after = (flatten_params(load_run(p).params) for p in (origin / "run", tmp_path / "run"))
    for path, leaf in before.items():
        # Padding rows of the vocabulary are not weights, and Hugging Face's format drops them.
        rows = still.model.vocab_size if path in PADDED else None
        # A parameter with value 0 still changes by the learning rate.
        np.testing.assert_allclose(after[path][:rows], leaf[:rows], rtol=0, atol=1e-20)
    assert load_run(tmp_path / "run").step == 1
    with checkpoint.open_checkpoints(tmp_path / "run", read_only=True) as manager:
        saved = manager.restore(1).state
    steps = [leaf for leaf in jax.tree.leaves(saved) if np.asarray(leaf).dtype == np.int32]
    assert len(steps) > 1 and all(int(leaf) == 1 for leaf in steps)
    assert load_run(origin / form).report() in capsys.readouterr().err


def test_a_run_without_a_checkpoint_restarts_only_with_the_same_weights(origin, still, tmp_path):
    source = shutil.copytree(origin / "run", tmp_path / "source")
    continued = override(still, {"training.init_from": str(source)})
    start(continued, tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "initial.json").read_text())
    assert recorded["step"] == 12 and recorded["source"] == str(source)
    # As if the run had ended before its first checkpoint and its source had been trained further.
    for name in ("checkpoints", "result.json", "metrics.jsonl"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(source / "checkpoints" / "12")
    with pytest.raises(CheckpointError, match="started from weights .* accepted: the same"):
        start(continued, tmp_path / "run")


def test_a_run_with_a_checkpoint_resumes_from_it(origin, experiment, tmp_path):
    """The run resumes even if its initial weights were deleted."""
    source = shutil.copytree(origin / "huggingface", tmp_path / "source")
    continued = override(experiment, {"training.init_from": str(source)})
    calls = []

    def interrupt(_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        start(continued, tmp_path / "run", probes=[interrupt])
    assert checkpoint.latest_step(tmp_path / "run") == 6
    shutil.rmtree(source)
    assert start(continued, tmp_path / "run")["steps"] == 12
    with pytest.raises(CheckpointError, match="source does not exist"):
        start(continued, tmp_path / "another")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model.num_layers": 3}, "num_layers is 2; accepted: 3, as in"),
        ({"model.num_heads": 2}, "num_heads is 4; accepted: 2, as in"),
        ({"model.intermediate_size": 64}, "intermediate_size is 128; accepted: 64, as in"),
        ({"model.vocab_multiple": 256}, "vocab_multiple is 128; accepted: 256, as in"),
        (
            {"model.activation": "gelu_tanh"},
            "activation is 'gelu_erf'; accepted: 'gelu_tanh', as in",
        ),
        ({"model.layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-12; accepted: 1e-06, as in"),
    ],
)
def test_weights_of_another_model_are_refused_before_anything_is_written(
    changes, says, origin, still, tmp_path
):
    changed = override(still, {"training.init_from": str(origin / "huggingface")} | changes)
    with pytest.raises(ConfigError, match=says):
        start(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fine_tuned_weights_are_refused_before_anything_is_written(origin, still, tmp_path):
    run = load_run(origin / "run")
    head = TaskHeadConfig(
        family="regression", labels=(), outputs=1, unit="text", representation="mean"
    )
    output = {
        "kernel": np.ones((run.model.config.hidden_size, 1), np.float32),
        "bias": np.zeros(1, np.float32),
    }
    checkpoint.save_params(
        tmp_path / "tuned",
        {"bert": run.params["bert"], "output": output},
        model=run.model.config,
        experiment=None,
        tokenizer=run.tokenizer.to_json(),
        head=to_json(head),
    )
    changed = override(still, {"training.init_from": str(tmp_path / "tuned")})
    with pytest.raises(ConfigError, match="tuned was fine-tuned for a task; accepted: weights of"):
        start(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_another_vocabulary_are_refused(origin, still, tmp_path):
    run = load_run(origin / "huggingface")
    pieces = list(run.tokenizer.pieces)
    pieces[7], pieces[8] = pieces[8], pieces[7]
    changed = {
        "swapped": dataclasses.replace(run.tokenizer, pieces=tuple(pieces)),
        "fewer": dataclasses.replace(run.tokenizer, pieces=run.tokenizer.pieces[:-1]),
        "cased": dataclasses.replace(run.tokenizer, lower_case=False),
    }
    says = {
        "swapped": f"another vocabulary: id 7 is {pieces[7]!r}, but in .* {pieces[8]!r}; accepted",
        "fewer": "has 500 rows for 499 pieces",
        "cased": "has lower_case False",
    }
    for name, tokenizer in changed.items():
        (tmp_path / name).mkdir()
        save_run(dataclasses.replace(run, tokenizer=tokenizer), tmp_path / name, to="bert_jax")
        with pytest.raises(ConfigError, match=says[name]):
            start(override(still, {"training.init_from": str(tmp_path / name)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_converted_weights_cannot_be_resumed(origin, experiment, tmp_path):
    directory = shutil.copytree(origin / "bert_jax", tmp_path / "weights")
    with pytest.raises(CheckpointError, match="holds weights without a run"):
        train(experiment, directory)
    assert load_run(directory).step == 0
    assert load_run(directory).config == load_run(origin / "run").config
    assert json.loads((directory / "tokenizer.json").read_text())["kind"] == "wordpiece"
