"""Properties of BERT's AdamW: the published update, what decays, the clip and the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.errors import ConfigError
from bert_jax.training.optim import (
    OptimizerConfig,
    decay_mask,
    learning_rate_schedule,
    make_optimizer,
)

BETA1, BETA2, EPSILON, DECAY = 0.9, 0.999, 1e-6, 0.01

# Shapes by name; the published code excludes names with "LayerNorm", "layer_norm" or "bias".
SHAPES = {
    "embeddings": {"token": (7, 4), "layer_norm": {"scale": (4,), "bias": (4,)}},
    "dense": {"kernel": (4, 3), "bias": (3,)},
}
DECAYED = {("embeddings", "token"), ("dense", "kernel")}


def random_tree(rng, scale):
    return jax.tree.map(
        lambda shape: (scale * rng.normal(size=shape)).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def flat(tree):
    """Leaves by their path, float64."""
    return {
        tuple(key.key for key in path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def published_rate(step, *, rate, steps, warmup):
    """The learning rate of google-research/bert: optimization.py, create_optimizer."""
    decayed = rate * (1 - min(step, steps) / steps)  # polynomial_decay to 0, power 1
    return rate * step / warmup if step < warmup else decayed


def published_update(params, gradients, moments, learning_rate):
    """One step of AdamWeightDecayOptimizer, after clip_by_global_norm(1.0), in float64."""
    norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    for name, gradient in gradients.items():
        gradient = gradient * (1.0 / max(norm, 1.0))
        mean, square = moments[name]
        next_m = BETA1 * mean + (1 - BETA1) * gradient
        next_v = BETA2 * square + (1 - BETA2) * gradient**2
        update = next_m / (np.sqrt(next_v) + EPSILON)
        if name in DECAYED:
            update = update + DECAY * params[name]
        params[name] = params[name] - learning_rate * update
        moments[name] = (next_m, next_v)


def test_twenty_updates_are_those_of_the_published_code():
    """Adam without bias correction, epsilon outside the root, decay before the rate, clip first."""
    rate, steps, warmup = 0.05, 24, 5
    config = OptimizerConfig(learning_rate=rate, warmup_steps=warmup)
    optimizer = make_optimizer(config, learning_rate_schedule(config, steps=steps))
    rng = np.random.default_rng(0)
    params = random_tree(rng, 1.0)
    state = optimizer.init(params)
    expected = flat(params)
    moments = {name: (0.0, 0.0) for name in expected}
    update = jax.jit(optimizer.update)
    clipped = 0
    for step in range(20):
        # Norms from 0.006 to 60, so that some updates clip and some do not, and epsilon counts.
        gradients = random_tree(rng, 10.0 ** rng.uniform(-3, 1))
        clipped += float(optax.tree.norm(gradients)) > 1
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        learning_rate = published_rate(step, rate=rate, steps=steps, warmup=warmup)
        published_update(expected, flat(gradients), moments, learning_rate)
    assert 5 <= clipped <= 15
    for name, value in flat(params).items():
        # 20 float32 updates of numbers of order 1: an ulp of 1.2e-7 each, some of rsqrt's. Bias
        # correction, the order of decay, or epsilon inside the root change the third digit.
        np.testing.assert_allclose(value, expected[name], atol=5e-6, rtol=0, err_msg=str(name))


def test_all_parameters_of_bert_decay_but_biases_and_layer_norm(first_state):
    """Tables and kernels decay, embeddings too; nothing else does."""
    params = jax.tree.map(np.ones_like, first_state.params)
    # Without a gradient an update is the decay alone.
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.25), optax.constant_schedule(0.5))
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    decayed = set()
    for path, update in flat(updates).items():
        assert np.unique(update).size == 1, path
        assert update.flat[0] in (0.0, -0.125), path
        if update.flat[0]:
            decayed.add("/".join(path))
    layer = "bert/layers/"
    assert decayed == {
        "bert/embeddings/token",
        "bert/embeddings/position",
        "bert/embeddings/segment",
        *(f"{layer}attention/{name}/kernel" for name in ("query", "key", "value", "output")),
        f"{layer}feed_forward/intermediate/kernel",
        f"{layer}feed_forward/output/kernel",
        "bert/pooler/dense/kernel",
        "masked_token_head/transform/kernel",
        "next_sentence_head/dense/kernel",
    }
    mask = flat(decay_mask(params))
    assert {"/".join(path) for path, decays in mask.items() if decays} == decayed


@pytest.mark.parametrize(("gradient", "norm_after"), [((3.0, 4.0), 1.0), ((0.3, 0.4), 0.5)])
def test_clip_leaves_a_norm_of_at_most_one(gradient, norm_after):
    """A gradient of norm 5 has norm 1 after it, not 1/5 of that as without the square root."""
    first, second = (jnp.array([part]) for part in gradient)
    params = {"a": {"kernel": jnp.zeros(1)}, "b": {"bias": jnp.zeros(1)}}
    gradients = {"a": {"kernel": first}, "b": {"bias": second}}  # one norm over all leaves
    optimizer = make_optimizer(OptimizerConfig(), optax.constant_schedule(0.0))
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    (moments,) = [part for part in state if hasattr(part, "square")]
    # The first mean is (1 - beta1) x what came out of the clip.
    clipped = np.array([moments.mean["a"]["kernel"][0], moments.mean["b"]["bias"][0]]) / 0.1
    # A few float32 roundings of 6e-8 each.
    assert np.linalg.norm(clipped) == pytest.approx(norm_after, rel=1e-6)
    assert clipped[0] / clipped[1] == pytest.approx(0.75, rel=1e-6)


def test_rate_rises_to_the_end_of_the_warm_up_jumps_and_falls_to_zero():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10)
    schedule = learning_rate_schedule(config, steps=100)
    # Float32 roundings of 6e-8 in numbers up to 2.
    close = {"abs": 1e-6}
    assert schedule(0) == 0
    assert [float(schedule(step)) for step in range(10)] == pytest.approx(
        [0.2 * step for step in range(10)], **close
    )
    assert float(schedule(10)) == pytest.approx(2.0 * (1 - 10 / 100), **close)
    assert float(schedule(55)) == pytest.approx(2.0 * 0.45, **close)
    assert schedule(100) == 0
    for step in range(100):
        expected = published_rate(step, rate=2.0, steps=100, warmup=10)
        assert float(schedule(jnp.int32(step))) == pytest.approx(expected, **close)


def test_constant_schedule_stays_at_the_full_rate_after_the_warm_up():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, schedule="constant")
    schedule = learning_rate_schedule(config, steps=100)
    assert [float(schedule(step)) for step in (0, 1, 2, 3, 4, 50, 99)] == [
        0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0,
    ]  # fmt: skip


def test_no_warm_up_starts_at_the_full_rate():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=0)
    assert float(learning_rate_schedule(config, steps=10)(0)) == 2.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"epsilon": -1e-6},
        {"max_grad_norm": 0.0},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"beta1": 1.0},
        {"beta2": -0.5},
    ],
)
def test_a_setting_that_cannot_train_is_refused_by_name(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"optimizer\.{name} is {value}; accepted: "):
        OptimizerConfig(**wrong)
