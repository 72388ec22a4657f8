"""Optimizer settings: the first update, weight decay, clipping, trust ratio, learning rate.

test_optim_sources.py compares sequences of updates with published code.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.errors import ConfigError
from bert_jax.sharding import ShardingRules
from bert_jax.training.optim import (
    OptimizerConfig,
    decay_mask,
    learning_rate_schedule,
    make_optimizer,
    restart_moments,
    scale_by_trust_ratio,
)
from bert_jax.training.state import state_initializer, state_sharding


def flat(tree):
    """Returns the leaves by path, in float64."""
    return {
        tuple(key.key for key in path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_all_parameters_but_biases_and_layer_norm_decay(first_state):
    """Only embedding tables and kernels decay."""
    params = jax.tree.map(np.ones_like, first_state.params)
    # With gradient 0, an update consists only of the decay.
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
    """A gradient of norm 5 gets norm 1; without the square root it would get norm 1/5."""
    first, second = (jnp.array([part]) for part in gradient)
    params = {"a": {"kernel": jnp.zeros(1)}, "b": {"bias": jnp.zeros(1)}}
    gradients = {"a": {"kernel": first}, "b": {"bias": second}}  # one norm over all leaves
    optimizer = make_optimizer(OptimizerConfig(), optax.constant_schedule(0.0))
    _, state = optimizer.update(gradients, optimizer.init(params), params)
    (moments,) = [part for part in state if hasattr(part, "square")]
    # The first mean is (1 - beta1) times the clipped gradient.
    clipped = np.array([moments.mean["a"]["kernel"][0], moments.mean["b"]["bias"][0]]) / 0.1
    # A few float32 roundings of 6e-8 each.
    assert np.linalg.norm(clipped) == pytest.approx(norm_after, rel=1e-6)
    assert clipped[0] / clipped[1] == pytest.approx(0.75, rel=1e-6)


@pytest.mark.parametrize("bias_correction", [False, True])
def test_an_update_stores_the_moments_and_the_parameters_only(bias_correction):
    """A program that also stores the clipped gradient reads and writes five arrays more."""
    config = OptimizerConfig(bias_correction=bias_correction)
    optimizer = make_optimizer(config, learning_rate_schedule(config, steps=20_000))
    params = {"a": {"kernel": jnp.zeros((300, 500))}}

    def update(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(update, donate_argnums=(0, 1)).lower(params, optimizer.init(params), params)
    entry = lowered.compile().as_text().partition("\nENTRY")[2]
    assert len(re.findall(r"= f32\[300,500\]\S* (?!parameter)", entry)) == 3


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


def test_constant_schedule_stays_at_the_full_rate_after_the_warm_up():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=4, schedule="constant")
    schedule = learning_rate_schedule(config, steps=100)
    assert [float(schedule(step)) for step in (0, 1, 2, 3, 4, 50, 99)] == [
        0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0,
    ]  # fmt: skip


def test_no_warm_up_starts_at_the_full_rate():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=0)
    assert float(learning_rate_schedule(config, steps=10)(0)) == 2.0


# A kernel of norm 5 and a bias of norm 10. The gradient has norm 0.02 and is not clipped.
PARAMS = {"kernel": np.float32([3, 4]), "bias": np.float32([6, 8])}
GRADIENTS = {"kernel": np.float32([0.01, 0.01]), "bias": np.float32([0.01, 0.01])}
# Adam's first direction: the quotient of both moments of a constant gradient.
PLAIN = (0.1 * 0.01) / (np.sqrt(0.001 * 0.01**2) + 1e-6)


def first_update(changes):
    """Returns the first update at rate 1 with the sign changed, so it is the subtracted value."""
    config = OptimizerConfig(**changes)
    optimizer = make_optimizer(config, optax.constant_schedule(1.0))
    updates, _ = optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)
    return {name: -np.asarray(update, np.float64) for name, update in updates.items()}


def of_norm(norm, update):
    return norm * np.array(update) / np.linalg.norm(update)


DECAYED = [PLAIN + 0.03, PLAIN + 0.04]


@pytest.mark.parametrize(
    ("changes", "kernel", "bias"),
    [
        ({}, DECAYED, [PLAIN, PLAIN]),
        ({"weight_decay": 0.5}, [PLAIN + 1.5, PLAIN + 2.0], [PLAIN, PLAIN]),
        ({"decay_excludes": "nothing"}, DECAYED, [PLAIN + 0.06, PLAIN + 0.08]),
        # Corrected moments of a constant are the constant and its square: the direction is near 1.
        (
            {"bias_correction": True},
            [0.01 / (0.01 + 1e-6) + 0.03, 0.01 / (0.01 + 1e-6) + 0.04],
            [0.01 / (0.01 + 1e-6)] * 2,
        ),
        ({"bias_correction": True, "epsilon": 0.01}, [0.53, 0.54], [0.5, 0.5]),
        (
            {"beta1": 0.5, "weight_decay": 0.0},
            [0.5 * 0.01 / (np.sqrt(0.001) * 0.01 + 1e-6)] * 2,
            [0.5 * 0.01 / (np.sqrt(0.001) * 0.01 + 1e-6)] * 2,
        ),
        (
            {"beta2": 0.75, "weight_decay": 0.0},
            [0.1 * 0.01 / (0.5 * 0.01 + 1e-6)] * 2,
            [0.1 * 0.01 / (0.5 * 0.01 + 1e-6)] * 2,
        ),
        (
            {"epsilon": 1.0, "weight_decay": 0.0},
            [0.001 / (np.sqrt(0.001) * 0.01 + 1)] * 2,
            [0.001 / (np.sqrt(0.001) * 0.01 + 1)] * 2,
        ),
        # Clipping halves the gradient. Adam's direction has no scale, so only epsilon shows this.
        (
            {"epsilon": 1.0, "weight_decay": 0.0, "max_grad_norm": 0.01},
            [0.0005 / (np.sqrt(0.001) * 0.005 + 1)] * 2,
            [0.0005 / (np.sqrt(0.001) * 0.005 + 1)] * 2,
        ),
        ({"name": "lamb"}, of_norm(5, DECAYED), [PLAIN, PLAIN]),
        ({"name": "lamb", "trust_ratio": "all"}, of_norm(5, DECAYED), of_norm(10, [1, 1])),
        (
            {"name": "lamb", "decay_excludes": "nothing"},
            of_norm(5, DECAYED),
            of_norm(10, [PLAIN + 0.06, PLAIN + 0.08]),
        ),
        ({"name": "lamb", "weight_decay": 0.0}, of_norm(5, [1, 1]), [PLAIN, PLAIN]),
    ],
    ids=str,
)
def test_each_setting_changes_the_first_update_by_its_formula(changes, kernel, bias):
    update = first_update(changes)
    # A few float32 roundings of 6e-8. In a corrected moment, float32 1 - 0.999 differs from 0.001
    # by 1.3e-5, which the square root halves.
    np.testing.assert_allclose(update["kernel"], kernel, rtol=1e-5)
    np.testing.assert_allclose(update["bias"], bias, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "first", "at_warmup_end", "halfway"),
    [
        ({}, 0.0, 0.8, 0.5),
        ({"learning_rate": 2.0}, 0.0, 1.6, 1.0),
        ({"warmup_steps": 40}, 0.0, 0.5, 0.5),
        ({"warmup_start": -10}, 0.5, 0.8, 0.5),
        ({"first_step": 1}, 0.05, 0.79, 0.49),
        ({"schedule": "constant"}, 0.0, 1.0, 1.0),
        ({"schedule": "cosine"}, 0.0, (1 + math.cos(0.2 * math.pi)) / 2, 0.5),
        ({"schedule": "one_minus_sqrt"}, 0.0, 1 - 0.2**0.5, 1 - 0.5**0.5),
        (
            {"schedule": "one_minus_sqrt", "decay_from": "warmup_end"},
            0.0,
            1.0,
            1 - (30 / 80) ** 0.5,
        ),
        ({"power": 0.5}, 0.0, 0.8**0.5, 0.5**0.5),
        ({"decay_from": "warmup_end"}, 0.0, 1.0, 50 / 80),
        ({"decay_from": "warmup_end", "warmup_start": -10}, 0.5, 80 / 90, 50 / 90),
    ],
    ids=str,
)
def test_each_setting_changes_the_rate_by_its_formula(changes, first, at_warmup_end, halfway):
    """The rates are those of steps 0, 20 and 50; there are 100 steps with 20 warm-up steps."""
    config = OptimizerConfig(**{"learning_rate": 1.0, "warmup_steps": 20} | changes)
    schedule = learning_rate_schedule(config, steps=100)
    found = [float(schedule(step)) for step in (0, 20, 50)]
    # Float32 roundings of 6e-8.
    assert found == pytest.approx([first, at_warmup_end, halfway], abs=1e-6)


# ---- LAMB's trust ratio ------------------------------------------------------------------------


def test_layers_have_separate_trust_ratios_and_other_tensors_one():
    """This holds even for a tensor outside the layers that has one row for each layer."""
    rows = np.float32([[3, 4], [0, 2], [5, 12]])  # norms 5, 2 and 13
    moves = np.float32([[1, 0], [0, 4], [3, 4]])  # norms 1, 4 and 5
    params = {"bert": {"layers": {"kernel": rows}, "embeddings": {"segment": rows}}}
    updates = {"bert": {"layers": {"kernel": moves}, "embeddings": {"segment": moves}}}
    transform = scale_by_trust_ratio()
    scaled, _ = transform.update(updates, transform.init(params), params)
    # A few float32 roundings of 6e-8 each.
    np.testing.assert_allclose(
        scaled["bert"]["layers"]["kernel"], moves * np.float32([[5], [0.5], [2.6]]), rtol=1e-6
    )
    whole = np.sqrt((25 + 4 + 169) / (1 + 16 + 25))
    np.testing.assert_allclose(scaled["bert"]["embeddings"]["segment"], moves * whole, rtol=1e-6)


def test_a_trust_ratio_is_one_if_a_norm_is_zero():
    """Otherwise new biases would never change, and an unused layer would become NaN."""
    params = {"bert": {"layers": {"bias": np.float32([[0, 0], [3, 4], [3, 4]])}}}
    updates = {"bert": {"layers": {"bias": np.float32([[1, 2], [0, 0], [0, 1]])}}}
    transform = scale_by_trust_ratio()
    scaled, _ = transform.update(updates, transform.init(params), params)
    assert scaled["bert"]["layers"]["bias"].tolist() == [[1, 2], [0, 0], [0, 5]]


@pytest.mark.slow
def test_lamb_on_a_mesh_sums_its_norms_over_the_shards(trainer_on, first_state):
    """Moments are sharded like parameters, no parameter is gathered, the update is the same."""
    trainer = trainer_on(2, 2, 2)
    config = OptimizerConfig(name="lamb", bias_correction=True, trust_ratio="all")
    optimizer = make_optimizer(config, optax.constant_schedule(1.0))
    sharding = state_sharding(
        state_initializer(trainer.model, optimizer, seed=0),
        mesh=trainer.mesh,
        rules=ShardingRules(),
    )
    (adam,) = [part for part in sharding.opt_state if hasattr(part, "mu")]
    assert adam.mu == adam.nu == sharding.params

    params = first_state.params
    gradients = jax.tree.map(lambda leaf: np.sin(100 * leaf), params)
    expected, _ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params)
    placed, cut = jax.device_put((params, gradients), (sharding.params,) * 2)
    state = jax.jit(optimizer.init, out_shardings=sharding.opt_state)(placed)
    update = jax.jit(optimizer.update, out_shardings=(sharding.params, sharding.opt_state))
    compiled = update.lower(cut, state, placed).compile()
    assert "all-reduce" in compiled.as_text() and "all-gather" not in compiled.as_text()
    for found, wanted in zip(
        jax.tree.leaves(compiled(cut, state, placed)[0]), jax.tree.leaves(expected), strict=True
    ):
        # Norms are summed in another order: the measured relative difference is 5e-7.
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


# ---- Invalid settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"epsilon": -1e-6},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": 1e39},
        {"power": 0.0},
        {"warmup_steps": -1},
        {"warmup_start": 1},
        {"warmup_start": -10_001},
        {"weight_decay": -0.1},
        {"beta1": 1.0},
        {"beta2": -0.5},
    ],
)
def test_an_invalid_setting_is_refused_by_name(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=re.escape(f"optimizer.{name} is {value}; accepted: ")):
        OptimizerConfig(**wrong)


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("moments", ["kept", "recounted", "zeroed"])
def test_moments_at_the_start_of_a_phase(moments, bias_correction):
    """The next update is Adam's with the moments and the count that `moments` leaves."""
    config = OptimizerConfig(
        learning_rate=1.0,
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1e9,
        schedule="constant",
        bias_correction=bias_correction,
    )
    rates = []

    def schedule(count):
        rates.append(int(count))
        return 1.0

    optimizer = make_optimizer(config, schedule)
    params = {"kernel": jnp.ones(3)}
    state = optimizer.init(params)
    gradients = [{"kernel": jnp.array([g, 2 * g, -g])} for g in (1.0, 3.0, 0.5, 2.0)]
    for gradient in gradients[:3]:
        _, state = optimizer.update(gradient, state, params)
    state = restart_moments(state, optimizer.init(params), moments=moments)
    update, _ = optimizer.update(gradients[3], state, params)

    mean, square, count = np.zeros(3), np.zeros(3), 0
    for i, gradient in enumerate(gradients):
        if i == 3 and moments != "kept":
            count = 0
            mean, square = (0 * mean, 0 * square) if moments == "zeroed" else (mean, square)
        g = np.asarray(gradient["kernel"], np.float64)
        count += 1
        mean = 0.9 * mean + 0.1 * g
        square = 0.999 * square + 0.001 * g**2
    if bias_correction:
        mean, square = mean / (1 - 0.9**count), square / (1 - 0.999**count)
    expected = -mean / (np.sqrt(square) + 1e-6)
    # Float32 powers of 0.999: 1 - 0.999 has three digits less than float32.
    np.testing.assert_allclose(update["kernel"], expected, rtol=1e-4)
    assert rates == [0, 1, 2, 3]  # the count of the schedule continues
