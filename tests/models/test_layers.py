"""Properties of the layers: products and their gradients, LayerNorm, activations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bert_jax.models.config import BertConfig
from bert_jax.models.layers import (
    Dense,
    LayerNorm,
    activation,
    kernel_initializer,
    layer_norm,
    product,
)

CONFIG = BertConfig(hidden_size=32, num_layers=2, num_heads=4)
BF16 = BertConfig(hidden_size=32, num_layers=2, num_heads=4, dtype="bfloat16")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        # Float32 sums of at most 48 terms in another order, relative to the whole array.
        ("float32", 1e-6),
        # The incoming and the outgoing gradient are rounded to bfloat16. Each rounding changes a
        # number by at most 2^-8, and the norm of many numbers by about 2^-9.5.
        ("bfloat16", 2**-8),
    ],
)
@pytest.mark.parametrize(("inputs", "outputs"), [(48, 16), (16, 48), (16, 16)])
def test_gradients_of_product_equal_those_of_einsum(inputs, outputs, dtype, tolerance):
    x = jnp.asarray(normal(3, 5, inputs), dtype)
    kernel = jnp.asarray(normal(inputs, outputs, seed=1), dtype)
    weights = jnp.asarray(normal(3, 5, outputs, seed=2), jnp.float32)

    def plain(x, kernel):
        return jnp.einsum("bsi,io->bso", x, kernel)

    wide = (x.astype(jnp.float32), kernel.astype(jnp.float32))
    expected, backward = jax.vjp(plain, *wide)
    found, product_backward = jax.vjp(product, x, kernel)
    assert found.dtype == jnp.float32
    # A product of two bfloat16 numbers is exact in float32, so only the order of sums differs.
    assert distance(found, expected) < 1e-6
    for gradient, reference, of in zip(
        jax.jit(product_backward)(weights), backward(weights), (x, kernel), strict=True
    ):
        assert gradient.dtype == of.dtype and gradient.shape == of.shape
        assert distance(gradient, reference) < tolerance


def distance(found, expected):
    """Norm of the difference relative to the norm of `expected`."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def test_dense_maps_input_dimensions_to_output_dimensions():
    """Compares kernels of shape embed -> (heads, head_dim) and mlp -> b, with bias, with NumPy."""
    x = normal(2, 5, 32)
    for inputs, outputs in (({"embed": 32}, {"heads": 4, "head_dim": 8}), ({"mlp": 32}, {"b": 3})):
        layer = Dense(CONFIG, inputs, outputs)
        params = nn.unbox(layer.init(jax.random.key(0), x)["params"])
        assert params["kernel"].shape == (*inputs.values(), *outputs.values())
        params["bias"] = normal(*outputs.values(), seed=1).astype(np.float32)
        expected = np.tensordot(x, np.asarray(params["kernel"]), 1) + params["bias"]
        # Float32 sums of 32 terms of order 0.02.
        np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-6)


def reference_layer_norm(x, params, epsilon):
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return normal * params["scale"] + params["bias"]


LAYER_NORM_PARAMS = {
    "scale": (1 + 0.1 * normal(32, seed=3)).astype(np.float32),
    "bias": normal(32, seed=4).astype(np.float32),
}


def test_layer_norm_is_accurate_if_the_mean_is_large():
    """The variance uses centred numbers; E[x^2] - E[x]^2 would lose every digit here."""
    x = (3000 + normal(4, 32)).astype(np.float32)
    found = LayerNorm(CONFIG).apply({"params": LAYER_NORM_PARAMS}, x)
    # The mean is about 3000, so its float32 rounding is at most 2^-13 = 1.2e-4 and shifts the
    # whole row. The bound allows about as much again for the roundings of the sum.
    np.testing.assert_allclose(
        found, reference_layer_norm(x, LAYER_NORM_PARAMS, 1e-12), atol=3e-4, rtol=0
    )


def test_layer_norm_adds_the_epsilon_of_the_config_to_the_variance():
    x = (1e-3 * normal(4, 32)).astype(np.float32)
    for epsilon in (1e-12, 1e-6):  # the variance is 1e-6, so epsilon 1e-6 halves the square
        config = BertConfig(hidden_size=32, num_heads=4, layer_norm_epsilon=epsilon)
        found = LayerNorm(config).apply({"params": LAYER_NORM_PARAMS}, x)
        # A few float32 roundings of numbers up to 4.
        np.testing.assert_allclose(
            found, reference_layer_norm(x, LAYER_NORM_PARAMS, epsilon), atol=3e-6, rtol=0
        )


def test_layer_norm_of_bfloat16_computes_in_float32():
    """The output is the float64 result, rounded once. A bfloat16 mean of 20 errs by up to 0.06."""
    x = jnp.asarray(20 + normal(4, 32), jnp.bfloat16)
    found = LayerNorm(BF16).apply({"params": LAYER_NORM_PARAMS}, x)
    assert found.dtype == jnp.bfloat16
    # One rounding to 8 bits (at most 2^-8 of the number); atol covers float32 rounding near 0.
    np.testing.assert_allclose(
        np.asarray(found, np.float64),
        reference_layer_norm(x, LAYER_NORM_PARAMS, 1e-12),
        rtol=2**-8,
        atol=1e-5,
    )


def test_gelu_erf_is_the_exact_form():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(np.float64)]
    # Float32 rounds 1 + erf by about 6e-8 a few times, and x / 2 <= 3 multiplies this error. The
    # tanh form differs by up to 5e-4.
    found = activation(jnp.asarray(x), "gelu_erf")
    np.testing.assert_allclose(found, exact, atol=2e-6, rtol=1e-6)


def test_gelu_tanh_equals_the_formula_of_the_published_code():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    wide = x.astype(np.float64)
    cubic = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
    expected = 0.5 * wide * (1 + np.tanh(cubic))
    # Float32 rounding as in the test above. The erf form differs by up to 5e-4.
    found = activation(jnp.asarray(x), "gelu_tanh")
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=1e-6)


def test_relu_and_silu_equal_their_formulas():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    np.testing.assert_array_equal(activation(jnp.asarray(x), "relu"), np.maximum(x, 0))
    expected = x / (1 + np.exp(-x.astype(np.float64)))
    # Float32 rounds the exponential, the sum and the quotient.
    np.testing.assert_allclose(activation(jnp.asarray(x), "silu"), expected, atol=2e-6, rtol=1e-6)


def initial_values(**changes):
    initializer = kernel_initializer(BertConfig(**changes))
    return np.asarray(initializer(jax.random.key(0), (300, 300)), np.float64)


def test_initializer_truncates_at_two_deviations_without_rescaling():
    values = initial_values()
    assert abs(values).max() <= 0.04 * (1 + 1e-6)  # float32 rounding
    assert abs(values).max() > 0.0399
    # Truncation at two deviations leaves 0.8796 of a normal's deviation. The standard error of
    # this estimate is below 0.6 / 300 of it; five standard errors are allowed.
    assert values.std() == pytest.approx(0.8796 * 0.02, rel=0.01)
    assert abs(values.mean()) < 5 * 0.0176 / 300


def test_normal_initializer_is_not_truncated():
    values = initial_values(initializer="normal")
    assert abs(values).max() > 0.07  # about 40 of 90,000 draws are beyond 3.5 deviations
    # Five standard errors of the estimate; each is 1 / sqrt(2 * 90,000) of it.
    assert values.std() == pytest.approx(0.02, rel=0.012)


# ---- Backward passes that are written out -------------------------------------------------------


def plain_layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-12) * scale + bias


def plain_gelu(x, name):
    if name != "gelu_erf":
        return {"gelu_tanh": jax.nn.gelu, "relu": jax.nn.relu, "silu": jax.nn.silu}[name](x)
    return x * jax.scipy.stats.norm.cdf(x)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_the_gradient_of_layer_norm_is_that_of_its_formula(dtype, tolerance):
    x = jnp.asarray(normal(3, 5, 32), dtype)
    scale, bias = (jnp.asarray(normal(32, seed=seed), jnp.float32) for seed in (1, 2))
    weights = jnp.asarray(normal(3, 5, 32, seed=3), dtype)

    def gradients(function, x):
        def total(x, scale, bias):
            return (function(x, scale, bias).astype(jnp.float32) * weights).sum()

        return jax.grad(total, argnums=(0, 1, 2))(x, scale, bias)

    found = gradients(lambda *given: layer_norm(*given, 1e-12), x)
    expected = gradients(plain_layer_norm, x.astype(jnp.float32))
    assert [leaf.dtype for leaf in found] == [jnp.dtype(dtype), jnp.float32, jnp.float32]
    # Float32 rounds sums of 32 terms; the gradient of x is rounded once to its dtype.
    for leaf, reference in zip(found, expected, strict=True):
        assert distance(leaf, reference) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("name", ["gelu_erf", "gelu_tanh", "relu", "silu"])
def test_the_gradient_of_the_activation_is_that_of_its_formula(name, dtype, tolerance):
    x = jnp.linspace(-6, 6, 1001, dtype=dtype)
    found = jax.grad(lambda x: activation(x, name).astype(jnp.float32).sum())(x)
    expected = jax.grad(lambda x: plain_gelu(x, name).sum())(x.astype(jnp.float32))
    assert found.dtype == x.dtype
    # Float32 rounds a sum of two terms near 1; bfloat16 rounds the result once.
    assert distance(found, expected) < tolerance


def test_the_backward_passes_store_one_array_of_the_input_each():
    x = jnp.ones((4, 8, 32))
    _, backward = jax.vjp(lambda x: activation(x, "gelu_erf"), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(backward)) == x.size
    ones = jnp.ones(32)
    _, backward = jax.vjp(lambda x: layer_norm(x, ones, ones, 1e-12), x)
    # The input, the mean and the deviation of each vector, and the scale.
    assert sum(leaf.size for leaf in jax.tree.leaves(backward)) == x.size + 2 * 4 * 8 + 32
