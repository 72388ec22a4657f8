"""Properties of losses and metrics: one division over everything, whoever computed which part."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.training.losses import (
    LossWeights,
    ObjectiveConfig,
    accuracy,
    cross_entropy,
    loss_weights,
    pretraining_objective,
)
from bert_jax.training.metrics import Mean, merge
from bert_jax.training.step import eval_step

# This level halves the compile time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# Float32 sums of about a hundred numbers of order 1, in another order.
CLOSE = {"rel": 1e-6}


def reference_nll(logits, labels):
    """Returns the negative log likelihood in float64."""
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    log_total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    return log_total - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


@pytest.fixture(scope="module")
def scored(trainer_on, first_state, random_batch):
    """A batch with uneven masks and filler rows, and its logits."""
    batch = random_batch(rows=16, filler_rows=3)
    per_shard = batch.mask_weights.reshape(8, 2, -1).sum((1, 2))
    assert len(set(per_shard)) >= 4  # so the mean of the means of 8 shards differs
    output = jit(trainer_on(1, 1, 1).model.apply)({"params": first_state.params}, batch)
    return batch, output


@pytest.fixture(scope="module")
def evaluate(trainer_on, first_state):
    """`evaluate(devices, batch)` returns the metrics, with the rows sharded over devices."""

    @cache
    def compiled(devices):
        model = trainer_on(devices, 1, 1).model
        return jit(partial(eval_step, model=model, objective=ObjectiveConfig()))

    def evaluate(devices, batch):
        trainer = trainer_on(devices, 1, 1)
        with jax.set_mesh(trainer.mesh):
            params = jax.device_put(first_state.params, trainer.sharding.params)
            return merge([compiled(devices)(params, trainer.place(batch))])

    return evaluate


def expected_metrics(batch, output):
    """Returns every metric of a batch, computed in NumPy over all rows."""
    weights, pair_weights = batch.mask_weights > 0, batch.pair_weights > 0
    token_nll = reference_nll(output.token_logits, batch.mask_labels)[weights]
    pair_nll = reference_nll(output.pair_logits, batch.pair_labels)[pair_weights]
    hits = np.argmax(output.token_logits, -1) == batch.mask_labels
    pair_hits = np.argmax(output.pair_logits, -1) == batch.pair_labels
    return {
        "mlm_loss": float(token_nll.mean()),
        "mlm_accuracy": float(hits[weights].mean()),
        "nsp_loss": float(pair_nll.mean()),
        "nsp_accuracy": float(pair_hits[pair_weights].mean()),
    }


@pytest.mark.parametrize("devices", [1, 8])
def test_metrics_cover_the_whole_batch_on_any_number_of_devices(devices, scored, evaluate):
    """They are neither those of the first device nor the mean of the devices' means."""
    batch, output = scored
    # The untrained model predicts some of these labels correctly, so accuracy is not 0.
    best = np.argmax(output.token_logits, -1).astype(np.int32)
    labels = np.where(np.arange(16)[:, None] % 3 == 0, best, batch.mask_labels)
    batch = batch._replace(mask_labels=labels)
    found = evaluate(devices, batch)
    expected = expected_metrics(batch, output)
    assert 0.1 < expected["mlm_accuracy"] < 0.9
    assert found == pytest.approx(expected, **CLOSE)


def test_merged_means_equal_the_mean_of_the_whole_for_uneven_weights():
    rng = np.random.default_rng(0)
    values = rng.normal(size=300).astype(np.float32) + np.arange(300, dtype=np.float32)
    weights = (rng.random(300) < np.linspace(0.05, 0.95, 300)).astype(np.float32)
    cuts = [0, 3, 10, 150, 300]
    parts = [
        Mean.of(jnp.asarray(values[a:b]), jnp.asarray(weights[a:b]))
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    expected = np.average(values.astype(np.float64), weights=weights)
    assert float(sum(parts[1:], parts[0]).compute()) == pytest.approx(expected, **CLOSE)
    assert merge([{"m": part} for part in parts]) == pytest.approx({"m": expected}, **CLOSE)
    means = [float(part.compute()) for part in parts]
    assert abs(np.mean(means) - expected) > 1


def test_a_metric_without_weight_is_zero_and_left_out_of_merge():
    nothing = Mean.of(jnp.ones(3), jnp.zeros(3))
    assert nothing.compute() == 0
    something = Mean.of(jnp.full(2, 4.0), jnp.ones(2))
    assert merge([{"a": nothing, "b": something}]) == {"b": 4.0}
    assert merge([{"a": nothing}, {"a": something}]) == {"a": 4.0}


def test_merge_adds_in_float64():
    """Float32 would lose each 1 that is added to 2^24."""
    steps = [{"m": Mean(np.float32(2**24), np.float32(0))}]
    steps += [{"m": Mean(np.float32(1), np.float32(1))}] * 1000
    assert merge(steps) == {"m": (2**24 + 1000) / 1000}


def test_mean_of_half_precision_adds_in_float32():
    """In bfloat16, 300 ones would add up to 256."""
    ones = jnp.ones(300, jnp.bfloat16)
    mean = Mean.of(ones, ones)
    assert mean.total.dtype == mean.weight.dtype == jnp.float32
    assert (float(mean.total), float(mean.weight)) == (300, 300)


def test_cross_entropy_equals_numpy_with_large_and_infinite_logits():
    rng = np.random.default_rng(0)
    logits = (100 * rng.normal(size=(5, 7, 11))).astype(np.float32)
    labels = rng.integers(0, 8, size=(5, 7))
    logits[..., 8:] = -np.inf  # as for padding rows of the vocabulary
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    # Float32 rounding of differences of numbers up to 400.
    np.testing.assert_allclose(found, reference_nll(logits, labels), atol=5e-5)


def test_gradient_of_cross_entropy_is_finite_beside_infinite_logits():
    logits = jnp.array([[1.0, 2.0, -jnp.inf]])
    gradient = jax.grad(lambda x: cross_entropy(x, jnp.array([0])).sum())(logits)
    share = 1 / (1 + np.e)
    np.testing.assert_allclose(gradient, [[share - 1, 1 - share, 0]], atol=1e-6)  # float32


def test_gradient_of_cross_entropy_equals_automatic_differentiation():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 4, (3, 5, 40)), jnp.float32).at[..., 33:].set(-jnp.inf)
    labels = jnp.asarray(rng.integers(0, 33, (3, 5)))
    weights = jnp.asarray(rng.random((3, 5)), jnp.float32)

    def plain(logits):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
        return -(chosen[..., 0] * weights).sum()

    found = jax.grad(lambda x: (cross_entropy(x, labels) * weights).sum())(logits)
    # Gradients are at most 1; 1e-6 is about ten float32 roundings.
    np.testing.assert_allclose(found, jax.grad(plain)(logits), rtol=0, atol=1e-6)


def test_tied_labels_share_the_hit():
    labels, weights = jnp.array([0, 1, 1]), jnp.ones(3)
    logits = jnp.array([[0.0, 0.0], [0.0, 1.0], [jnp.nan, jnp.nan]])
    assert float(accuracy(logits, labels, weights).total) == 1.5


def test_a_target_with_id_0_counts():
    """Only weights select the predicted positions; `labels > 0` would drop two of them."""
    labels = np.array([[0, 0, 2, 1]])
    weights = np.array([[1.0, 1.0, 1.0, 0.0]])
    logits = jnp.asarray(np.eye(3)[np.array([[0, 1, 2, 1]])], jnp.float32)
    found = accuracy(logits, jnp.asarray(labels), jnp.asarray(weights))
    assert (float(found.total), float(found.weight)) == (2, 3)
    loss = Mean.of(cross_entropy(logits, jnp.asarray(labels)), jnp.asarray(weights))
    assert float(loss.weight) == 3
    assert float(loss.total) == pytest.approx(reference_nll(logits, labels)[0, :3].sum(), **CLOSE)


def mlm_objective(mlm, mask_weights, pair_weights, pack_ids, config):
    """Returns the masked-token part of the objective."""
    weights = loss_weights(mask_weights, pair_weights, pack_ids, config)
    none = Mean(jnp.float32(0), jnp.float32(0))
    return pretraining_objective(mlm, none, weights, config)


def test_the_pair_loss_counts_only_if_next_sentence_is_set():
    mlm, nsp = Mean(jnp.float32(6.0), jnp.float32(3)), Mean(jnp.float32(4.0), jnp.float32(2))
    weights = LossWeights(mlm.weight, nsp.weight)
    both = pretraining_objective(mlm, nsp, weights, ObjectiveConfig())
    alone = pretraining_objective(mlm, nsp, weights, ObjectiveConfig(next_sentence=False))
    assert (float(both), float(alone)) == (4.0, 2.0)


def test_sum_reduction_sums_within_a_pair_and_averages_over_pairs(scored):
    batch, output = scored
    nll = reference_nll(output.token_logits, batch.mask_labels) * batch.mask_weights
    mean = Mean.of(
        cross_entropy(output.token_logits, batch.mask_labels), jnp.asarray(batch.mask_weights)
    )
    rest = jax.tree.map(jnp.asarray, (batch.mask_weights, batch.pair_weights, batch.pack_ids))
    found = mlm_objective(mean, *rest, ObjectiveConfig(mlm_reduction="sum"))
    per_pair = nll.sum(-1)[:13]  # three of the sixteen rows are fillers
    assert float(found) == pytest.approx(per_pair.mean(), **CLOSE)
    found = mlm_objective(mean, *rest, ObjectiveConfig(mlm_reduction="mean"))
    assert float(found) == pytest.approx(nll.sum() / batch.mask_weights.sum(), **CLOSE)


def test_sum_reduction_counts_every_pair_of_a_packed_row():
    pack_ids = jnp.array([[1, 1, 2, 2, 3, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    loss = Mean(jnp.float32(20.0), jnp.float32(7.0))
    mask_weights, pair_weights = jnp.ones((3, 4)), jnp.ones((3, 3))
    config = ObjectiveConfig(mlm_reduction="sum")
    found = mlm_objective(loss, mask_weights, pair_weights, pack_ids, config)
    assert float(found) == 5.0  # four pairs


def test_filler_rows_change_neither_metrics_nor_loss(scored, evaluate):
    """Ids and labels at places of weight 0 may have any value."""
    batch, output = scored
    noisy = batch._replace(
        token_ids=np.where(batch.pack_ids > 0, batch.token_ids, 123),
        mask_labels=np.where(batch.mask_weights > 0, batch.mask_labels, 45),
        pair_labels=np.where(batch.pair_weights > 0, batch.pair_labels, 1),
    )
    real = jax.tree.map(lambda rows: rows[:13], (batch, output))
    expected = expected_metrics(*real)
    assert evaluate(1, batch) == pytest.approx(expected, **CLOSE)
    assert evaluate(1, noisy) == pytest.approx(expected, **CLOSE)
