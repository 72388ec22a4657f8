"""The peer of `bert_jax.bench --against=huggingface` does the same work as bert_jax."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from bert_jax import Experiment
from bert_jax.benchmarking import comparison, peer
from bert_jax.benchmarking.batches import random_batch
from bert_jax.config import override
from bert_jax.data.batch import Batch
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.interop.tensors import from_parameters
from bert_jax.models.bert import BertForPretraining
from bert_jax.models.config import BertConfig
from bert_jax.sharding import make_mesh
from bert_jax.training.build import assemble
from bert_jax.training.config import EvaluationConfig, TrainingConfig
from bert_jax.training.experiment import phases
from bert_jax.training.initial import flatten_params
from bert_jax.training.optim import OptimizerConfig
from bert_jax.training.state import make_state
from bert_jax.training.step import pretraining_loss

ROOT = Path(__file__).parents[2]
STEPS = 6


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """On a busy machine the threads of torch wait for one another."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def experiment_with(**changes) -> Experiment:
    """A BERT of 2 layers of width 64 without dropout, at a constant and high learning rate."""
    masking = MaskingConfig(max_predictions=6)
    experiment = Experiment(
        data=DataConfig(
            corpus="embedded:sotu",
            directory="data/none",
            batch_size=4,
            sequence_length=32,
            masking=masking,
            evaluation_masking=masking,
        ),
        model=BertConfig(
            vocab_size=500,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            max_positions=64,
            dropout=0.0,
            attention_dropout=0.0,
            initializer_stddev=0.1,
        ),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, warmup_steps=0, schedule="constant", weight_decay=0.1
        ),
        training=TrainingConfig(steps=STEPS),
        evaluation=EvaluationConfig(batch_size=4),
    )
    return comparison.comparable(override(experiment, {"mesh.data": 1, **changes}))


def padded_batch(experiment: Experiment) -> Batch:
    """A batch whose rows have padding and unused prediction slots, without the id of [PAD]."""
    batch = random_batch(experiment)
    ids = np.maximum(batch.token_ids, 1)  # the peer's embedding of [PAD] gets no gradient
    lengths = np.array([32, 20, 27, 11])[:, None]
    real = np.arange(32) < lengths
    used = batch.mask_positions < lengths
    assert 0 < (~used).sum() < used.size
    return batch._replace(
        token_ids=np.where(real, ids, 0).astype(np.int32),
        segment_ids=np.where(real, batch.segment_ids, 0).astype(np.int32),
        pack_ids=real.astype(np.int32),
        mask_positions=np.where(used, batch.mask_positions, 0).astype(np.int32),
        mask_weights=(batch.mask_weights * used).astype(np.float32),
    )


def open_both(experiment: Experiment, form: str, directory: Path):
    """Returns the assembly and the state of bert_jax, and a peer with the same weights."""
    assembly = assemble(phases(experiment)[0], make_mesh(experiment.mesh))
    state = make_state(assembly.initialize, assembly.sharding)
    parameters = {path: np.asarray(leaf) for path, leaf in flatten_params(state.params).items()}
    tensors = from_parameters(parameters, vocab_size=experiment.model.vocab_size)
    weights = directory / "weights.safetensors"
    safetensors.numpy.save_file(tensors, weights)
    request = comparison.request_of(experiment, directory, weights=weights)
    return assembly, state, peer.Peer(json.loads(request.read_text()), form)


@pytest.mark.parametrize("form", peer.FORMS)
@pytest.mark.parametrize("activation", ["gelu_erf", "gelu_tanh"])
def test_losses_of_the_same_weights_and_batch_are_equal(form, activation, tmp_path):
    experiment = experiment_with(**{"model.activation": activation})
    _, state, theirs = open_both(experiment, form, tmp_path)
    model = BertForPretraining(experiment.model)
    for batch in (random_batch(experiment), padded_batch(experiment)):
        ours, _ = pretraining_loss(state.params, batch, model=model, objective=experiment.objective)
        found = theirs.loss(theirs.tensors(batch._asdict())).item()
        np.testing.assert_allclose(found, ours, rtol=2e-6)


@pytest.mark.parametrize("form", peer.FORMS)
@pytest.mark.parametrize("bias_correction", [False, True])
def test_losses_stay_equal_over_updates(form, bias_correction, tmp_path):
    """The same clipping, moments, weight decay and learning rate give the same losses."""
    changes = {"optimizer.bias_correction": bias_correction, "optimizer.max_grad_norm": 0.5}
    experiment = experiment_with(**changes)
    assembly, state, theirs = open_both(experiment, form, tmp_path)
    batch = padded_batch(experiment)
    placed, tensors = assembly.place(batch), theirs.tensors(batch._asdict())
    expected, found = [], []
    for _ in range(STEPS):
        state, metrics = assembly.update(state, placed)
        expected.append(float(metrics["loss"].total))
        found.append(theirs.update(tensors, experiment.optimizer.learning_rate).item())
    assert expected[-1] < expected[0] - 0.5
    # torch divides by the norm + 1e-6, and sums in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_command_compares_and_the_peer_loads_no_jax(tmp_path):
    command = ["-m", "bert_jax.bench", "--experiment=experiments/bert.py:tiny", "--json"]
    command += ["--against=huggingface", "--rounds=1", "--seconds=0", "--set=data.batch_size=2"]
    command += ["--set=model.vocab_size=500", "--set=data.sequence_length=32"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert set(result["sides"]) == {"bert_jax", "stock", "strongest"}
    for (side,) in result["sides"].values():
        assert side["updates"] >= 3 and side["seconds"] > 0 and side["peak_bytes"] > 2**27
    for form in peer.FORMS:
        ratio = result["ratios"][form]
        (ours,), (theirs,) = result["sides"]["bert_jax"], result["sides"][form]
        assert ratio["ratio"] == ratio["min"] == ratio["max"]
        np.testing.assert_allclose(ratio["ratio"], theirs["seconds"] / ours["seconds"])
    code = "import sys, bert_jax.benchmarking.peer as p; p.import_torch(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "torch" in loaded.stdout.split() and "jax" not in loaded.stdout.split()
