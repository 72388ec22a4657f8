"""The written-out backward pass of attention equals the derivative of its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.attention import attend, attention_mask, attention_probabilities
from bert_jax.models.dropout import dropout

BATCH, HEADS, LENGTH, SIZE = 2, 3, 8, 4
MASK = attention_mask(jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0, 0]]))


def inputs(dtype):
    rng = np.random.default_rng(0)
    shape = (4, BATCH, HEADS, LENGTH, SIZE)
    return [jnp.asarray(array, dtype) for array in rng.normal(size=shape)]


def plain(query, key, value, rng, rate, bits):
    weights = attention_probabilities(query, key, MASK)
    if rng is not None:
        weights = dropout(weights, rate=rate, rng=rng, bits=bits)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value)


@pytest.mark.parametrize("bits", ["hash", "threefry", None])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        ("float32", 1e-5),  # sums of 8 float32 terms in another order
        # Probabilities, their gradients and the results are each rounded to 2^-8.
        ("bfloat16", 3 * 2**-8),
    ],
)
def test_gradients_of_attention_are_those_of_its_formula(dtype, tolerance, bits):
    *given, gradient = inputs(dtype)
    rng = None if bits is None else jax.random.key(1)
    found, backward = jax.vjp(lambda *qkv: attend(*qkv, MASK, rng, 0.3, bits), *given)
    wide = [array.astype(jnp.float32) for array in given]
    expected, plain_backward = jax.vjp(lambda *qkv: plain(*qkv, rng, 0.3, bits), *wide)
    pairs = [(found, expected)]
    pairs += list(
        zip(backward(gradient), plain_backward(gradient.astype(jnp.float32)), strict=True)
    )
    for result, reference in pairs:
        assert result.dtype == jnp.dtype(dtype)
        error = np.linalg.norm(np.asarray(result, np.float64) - np.asarray(reference, np.float64))
        assert error < tolerance * np.linalg.norm(reference)


def test_attention_stores_its_probabilities_once_in_the_dtype_of_the_values():
    *given, _ = inputs("bfloat16")
    rng = jax.random.key(1)
    _, backward = jax.vjp(lambda *qkv: attend(*qkv, MASK, rng, 0.3, "hash"), *given)
    squares = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape[-2:] == (LENGTH, LENGTH)]
    assert [leaf.dtype for leaf in squares] == [jnp.bfloat16]
