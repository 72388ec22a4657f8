"""Every pooling equals NumPy, and hidden states are the outputs of the layers."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bert_jax.errors import ConfigError
from bert_jax.models.bert import Bert, EncoderOutput
from bert_jax.models.config import BertConfig, Pooling
from bert_jax.models.pooling import pool

CONFIG = BertConfig(
    vocab_size=90,
    hidden_size=8,
    num_layers=5,
    num_heads=2,
    max_positions=8,
    initializer_stddev=0.3,  # every layer changes its input much
)
LENGTHS = (6, 3, 0)


@pytest.fixture(scope="module")
def output():
    """Outputs of 5 layers on two rows and a third row of padding. All numbers differ."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(5, 3, 6, 4)).astype(np.float32)
    pooled = rng.normal(size=(3, 1, 4)).astype(np.float32)
    return EncoderOutput(jnp.array(hidden[-1]), jnp.array(pooled), jnp.array(hidden))


@pytest.fixture(scope="module")
def mask():
    return jnp.arange(6) < jnp.array(LENGTHS)[:, None]


BY_HAND = {
    "cls": lambda o, row, n: o.sequence_output[row, 0],
    "pooled": lambda o, row, n: o.pooled_output[row, 0],
    "mean": lambda o, row, n: np.asarray(o.sequence_output)[row, :n].mean(0),
    "max": lambda o, row, n: np.asarray(o.sequence_output)[row, :n].max(0),
    "last4": lambda o, row, n: np.asarray(o.hidden_states)[1:, row, :n].mean((0, 1)),
}


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_a_row_is_pooled_over_its_tokens(pooling, output, mask):
    found = pool(output, mask, pooling)
    assert found.dtype == np.float32 and found.shape == (3, 4)
    for row, n in enumerate(LENGTHS[:2]):
        # At most 24 float32 additions of numbers of order 1, in another order.
        np.testing.assert_allclose(found[row], BY_HAND[pooling](output, row, n), atol=2e-6)
    if pooling in ("mean", "max", "last4"):
        assert not found[2].any()


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_gradients_are_finite_and_zero_at_padding(pooling, output, mask):
    gradient = jax.grad(lambda o: pool(o, mask, pooling).sum())(output)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    if pooling in ("mean", "max", "last4"):
        states = gradient.sequence_output + gradient.hidden_states.sum(0)
        assert not states[~mask].any() and states[mask].any()


def test_last4_takes_all_layers_if_there_are_fewer(output, mask):
    few = output._replace(hidden_states=output.hidden_states[3:])
    expected = np.asarray(few.hidden_states)[:, 0].mean((0, 1))
    np.testing.assert_allclose(pool(few, mask, "last4")[0], expected, atol=2e-6)


def test_an_unknown_pooling_or_missing_hidden_states_are_refused(output, mask):
    with pytest.raises(ConfigError, match="pooling is 'sum'; accepted: cls, .*last4"):
        pool(output, mask, "sum")
    with pytest.raises(ConfigError, match="keep_hidden_states"):
        pool(output._replace(hidden_states=None), mask, "last4")


def encode(config, params, inputs, **options):
    """Runs the encoder compiled with little optimization, which is faster than eager mode."""

    def apply(params, inputs):
        return Bert(config).apply({"params": params}, *inputs, **options)

    return jax.jit(apply, compiler_options={"xla_backend_optimization_level": 0})(params, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("scan_layers", [False, True])
def test_hidden_states_equal_the_outputs_of_smaller_encoders(scan_layers):
    inputs = (
        np.arange(12, dtype=np.int32).reshape(2, 6),
        np.zeros((2, 6), np.int32),
        np.ones((2, 6), np.int32),
        np.zeros((2, 1), np.int32),
    )
    config = dataclasses.replace(CONFIG, scan_layers=scan_layers)
    params = nn.unbox(jax.jit(Bert(config).init)(jax.random.key(0), *inputs)["params"])
    whole = encode(config, params, inputs, keep_hidden_states=True, keep_attentions=True)
    assert whole.hidden_states.shape == (5, 2, 6, 8)
    assert whole.attentions.shape == (5, 2, config.num_heads, 6, 6)
    np.testing.assert_allclose(whole.attentions.sum(-1), 1, rtol=1e-6)  # the rounding of six terms
    assert encode(config, params, inputs).hidden_states is None
    np.testing.assert_array_equal(whole.hidden_states[-1], whole.sequence_output)
    fewer = params | {"layers": jax.tree.map(lambda leaf: leaf[:2], params["layers"])}
    expected = encode(dataclasses.replace(config, num_layers=2), fewer, inputs).sequence_output
    # Another program: XLA may fuse and round sums of 8 to 32 terms of order 1 differently.
    np.testing.assert_allclose(whole.hidden_states[1], expected, atol=1e-5)
    assert np.abs(whole.hidden_states[0] - whole.hidden_states[1]).max() > 0.1
