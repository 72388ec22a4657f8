"""Properties of an update: dropout, reported metrics, microbatches, and three pinned updates."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.models.bert import Bert, BertForPretraining
from bert_jax.models.dropout import dropout
from bert_jax.sharding import MeshConfig, make_mesh
from bert_jax.training.config import TrainingConfig
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.metrics import Mean, merge
from bert_jax.training.state import random_stream
from bert_jax.training.step import accumulate_gradients, pretraining_loss
from bert_jax.training.writer import RunWriter

# This level halves the compile time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

GOLDEN = Path(__file__).parent.parent / "goldens" / "step.json"


def values(metrics):
    return {name: float(one.compute()) for name, one in metrics.items() if name != "finite"}


@pytest.fixture(scope="module")
def trainer(trainer_on):
    return trainer_on(1, 1, 1)


@pytest.fixture
def state(trainer, first_state):
    """The initial state on the device; a step donates it."""
    return jax.device_put(first_state, trainer.sharding)


def run(trainer, first_state, batches):
    state, rows = jax.device_put(first_state, trainer.sharding), []
    for batch in batches:
        state, metrics = trainer.step(state, batch)
        rows.append(values(metrics))
    return state, rows


def test_golden_three_updates(trainer, first_state, random_batch):
    """Pins loss and gradient norm of three updates with dropout for a fixed seed and config."""
    _, rows = run(trainer, first_state, [random_batch(seed=seed) for seed in range(3)])
    found = {name: [row[name] for row in rows] for name in ("loss", "mlm_loss", "grad_norm")}
    text = json.dumps(found, indent=1)
    advice = (
        "\nAn update computes other numbers than before. If this is intended, explain it in the "
        f"commit and set tests/goldens/{GOLDEN.name} to:\n{text}\n"
    )
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    assert golden.keys() == found.keys(), advice
    for name, expected in golden.items():
        # Another processor sums float32 in another order: the measured difference between meshes
        # is 2e-6, and 1e-5 leaves room. Another mask or seed changes them by more than 1e-3.
        assert found[name] == pytest.approx(expected, rel=1e-5), advice


def test_an_update_depends_only_on_state_and_batch(trainer, first_state, random_batch):
    """A repeated update is bitwise equal. It deletes the donated state and changes no number."""
    batch = random_batch()
    old = jax.device_put(first_state, trainer.sharding)
    new, metrics = trainer.step(old, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    again, same_metrics = trainer.step(jax.device_put(first_state, trainer.sharding), batch)
    jax.tree.map(np.testing.assert_array_equal, (new, metrics), (again, same_metrics))
    assert int(new.step) == 1
    # The next update starts from the new state.
    later, _ = trainer.step(again, batch)
    assert int(later.step) == 2


def test_the_first_warm_up_update_changes_moments_and_no_parameter(
    trainer, first_state, state, random_batch
):
    """The published learning rate is 0 at step 0."""
    new, metrics = trainer.step(state, random_batch())
    assert values(metrics)["learning_rate"] == 0
    jax.tree.map(np.testing.assert_array_equal, new.params, first_state.params)
    later, metrics = trainer.step(new, random_batch(seed=1))
    # Warm-up has 1 update, so the second update has the decayed rate 1e-3 x (1 - 1 / 20), float32.
    assert values(metrics)["learning_rate"] == pytest.approx(0.95e-3, rel=1e-6)
    unmoved = [
        jax.tree_util.keystr(path)
        for (path, before), after in zip(
            jax.tree_util.tree_leaves_with_path(first_state.params),
            jax.tree.leaves(later.params),
            strict=True,
        )
        if np.array_equal(before, after)
    ]
    assert not unmoved


def test_the_reported_norm_is_that_of_the_whole_gradient_before_clipping(
    trainer, first_state, state, random_batch
):
    """It is not the square of the norm, and not the norm 1 after clipping."""
    batch = random_batch()
    rng = jax.random.fold_in(random_stream(7, "dropout"), 0)

    @jit
    def gradient(params):
        loss = partial(pretraining_loss, model=trainer.model, objective=ObjectiveConfig())
        return jax.grad(lambda p: loss(p, batch, dropout_rng=rng)[0])(params)

    leaves = jax.tree.leaves(gradient(first_state.params))
    norm = np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in leaves))
    assert norm > 1.1  # so that the clip acts
    _, metrics = trainer.step(state, batch)
    # Float32 gradients of the same code, compiled with and without the optimizer.
    assert values(metrics)["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert values(metrics)["tokens"] == batch.padding_mask.sum()


def test_dropout_differs_between_steps(trainer, first_state, random_batch):
    """The same parameters and batch give another loss at another step."""
    losses = []
    for step in range(3):
        state = jax.device_put(first_state.replace(step=np.int32(step)), trainer.sharding)
        losses.append(values(trainer.step(state, random_batch())[1])["mlm_loss"])
    # Rounding is 1e-6; another dropout mask changes the loss by about 0.01.
    assert min(abs(a - b) for a, b in ((losses[0], losses[1]), (losses[1], losses[2]))) > 1e-4


def test_identical_rows_on_different_shards_get_different_dropout(
    trainer_on, first_state, random_batch
):
    trainer = trainer_on(8, 1, 1)
    row = jax.tree.map(lambda rows: rows[:1], random_batch())
    batch = jax.tree.map(lambda rows: np.repeat(rows, 8, axis=0), row)

    @jit
    def pooled(params, batch, key):
        model = Bert(trainer.model.config, trainer.model.rules)
        inputs = (batch.token_ids, batch.segment_ids, batch.pack_ids, batch.cls_positions)
        rngs = {"dropout": key}
        return model.apply({"params": params}, *inputs, train=True, rngs=rngs).pooled_output

    with jax.set_mesh(trainer.mesh):
        placed = trainer.place(batch)
        assert len({shard.device for shard in placed.token_ids.addressable_shards}) == 8
        found = np.asarray(pooled(first_state.params["bert"], placed, jax.random.key(0)))
    # Rows differ only by dropout, which changes them by far more than rounding (1e-6).
    gaps = np.abs(found[:, None] - found[None]).max((2, 3))
    assert np.all(gaps[~np.eye(8, dtype=bool)] > 1e-2)


@pytest.mark.parametrize(
    ("sizes", "spec"),
    [
        ((8, 1, 1), PartitionSpec(("data", "fsdp"))),
        ((2, 2, 2), PartitionSpec(("data", "fsdp"), "tensor")),
        ((1, 2, 4), PartitionSpec("fsdp", None, "tensor")),  # separates draws of one random word
        ((1, 1, 8), PartitionSpec(None, None, "tensor")),
    ],
)
def test_dropout_masks_are_bitwise_the_same_on_any_mesh(sizes, spec):
    mesh = make_mesh(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))))
    where = NamedSharding(mesh, spec)
    x = np.ones((8, 4, 24), np.float32)  # 3 numbers per device if `tensor` is 8
    key = jax.random.key(3)
    expected = dropout(jnp.asarray(x), rate=0.3, rng=key)

    @partial(jit, in_shardings=(where, None), out_shardings=where)
    def on_mesh(x, key):
        return dropout(x, rate=0.3, rng=key)

    np.testing.assert_array_equal(on_mesh(x, key), expected)


@pytest.mark.parametrize("window", [1, 2, 6])
def test_reported_gradient_norm_does_not_depend_on_the_log_window(window, tmp_path):
    """The norm of a constant gradient is constant; the root of a sum over a window would grow."""
    config = TrainingConfig(steps=6, log_every=window)
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    metrics = {
        "loss": Mean(jnp.float32(1.0), jnp.float32(1.0)),
        "tokens": Mean(jnp.float32(10.0), jnp.float32(1.0)),
        "grad_norm": Mean(optax.tree.norm(gradient), 1.0),
    }
    assert merge([metrics] * window)["grad_norm"] == 5.0
    with RunWriter(tmp_path, config, first_step=0) as writer:
        for step in range(1, 7):
            writer.add(metrics)
            if step == 6:
                writer.write(step, writer.read_row())
            elif step % window == 0:
                writer.end_row(step)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(window, 7, window))
    assert [row["train/grad_norm"] for row in rows] == [5.0] * (6 // window)


def accumulated(trainer, params, batch, *, microbatches, rate=0.0, rng=None):
    """Returns gradient and metrics of a batch in microbatches, on the trainer's mesh."""
    config = dataclasses.replace(trainer.model.config, dropout=rate, attention_dropout=rate)
    compute = partial(
        accumulate_gradients,
        model=BertForPretraining(config, trainer.model.rules),
        objective=ObjectiveConfig(),
        microbatches=microbatches,
    )
    rng = jax.random.key(0) if rng is None else rng
    with jax.set_mesh(trainer.mesh):
        placed = jax.device_put(params, trainer.sharding.params)
        return jax.device_get(jit(compute)(placed, trainer.place(batch), rng))


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_microbatches_with_uneven_masks_equal_one_large_batch(
    trainer_on, first_state, random_batch, devices
):
    """Means use the weights of the global batch, also if devices share the rows of a microbatch."""
    batch = random_batch(rows=16, filler_rows=3)
    counts = batch.mask_weights.reshape(4, 4, 4).sum((0, 2))  # microbatch i has rows i, i + 4, ...
    assert len(set(counts)) > 1
    trainer, params = trainer_on(devices, 1, 1), first_state.params
    whole = accumulated(trainer, params, batch, microbatches=1)
    parts = accumulated(trainer, params, batch, microbatches=4)
    for expected, found in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        # Float32 sums in another order: a few times the spacing of numbers near 1.
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_microbatches_have_their_own_dropout(trainer, first_state, random_batch):
    """Four microbatches with the same rows have four different dropout masks."""
    rows = random_batch(rows=2)
    copies = jax.tree.map(lambda x: np.repeat(x, 4, axis=0), rows)
    rng = jax.random.key(3)
    run = partial(accumulated, trainer, first_state.params, rate=0.5)
    together = run(copies, microbatches=4, rng=rng)[1]["mlm_loss"].total
    alone = [
        float(run(rows, microbatches=1, rng=key)[1]["mlm_loss"].total)
        for key in jax.random.split(rng, 4)
    ]
    assert len(set(alone)) == 4
    # Four sums of float32 in another order.
    assert float(together) == pytest.approx(sum(alone), rel=1e-5)
