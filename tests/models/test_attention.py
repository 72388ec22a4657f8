"""The written-out passes of attention equal its formula, and store one array of probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.attention import attend, attention_mask
from bert_jax.models.dropout import kept_elements

BATCH, HEADS, LENGTH, SIZE = 3, 3, 8, 4
# Two pairs and padding; one pair and padding; a row without any text.
PACK_IDS = [[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0, 0], [0] * 8]
MASK = attention_mask(jnp.asarray(PACK_IDS))


def inputs(dtype):
    rng = np.random.default_rng(0)
    shape = (4, BATCH, HEADS, LENGTH, SIZE)
    return [jnp.asarray(array, dtype) for array in rng.normal(size=shape)]


def dropout_of(bits):
    shape = (BATCH, HEADS, LENGTH, LENGTH)
    return kept_elements(jax.random.key(1), shape, rate=0.3, bits=bits) if bits else (None, 1.0)


def formula(query, key, value, kept, share):
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) / SIZE**0.5
    weights = jax.nn.softmax(jnp.where(MASK, scores, jnp.finfo(jnp.float32).min))
    weights = weights if kept is None else jnp.where(kept, weights / share, 0)
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
def test_attention_and_its_gradients_are_those_of_the_formula(dtype, tolerance, bits):
    *given, gradient = inputs(dtype)
    kept, share = dropout_of(bits)
    found, backward = jax.vjp(lambda *qkv: attend(*qkv, MASK, kept, share), *given)
    wide = [array.astype(jnp.float32) for array in given]
    expected, formula_backward = jax.vjp(lambda *qkv: formula(*qkv, kept, share), *wide)
    pairs = [(found, expected)]
    pairs += zip(backward(gradient), formula_backward(gradient.astype(jnp.float32)), strict=True)
    for result, reference in pairs:
        assert result.dtype == jnp.dtype(dtype)
        for row in range(BATCH):
            error = np.asarray(result[row], np.float64) - np.asarray(reference[row], np.float64)
            assert np.linalg.norm(error) <= tolerance * np.linalg.norm(reference[row])


def test_probabilities_are_a_float32_softmax_and_0_at_masked_keys():
    """The values are unit vectors, so the output is the probabilities."""
    query, key = (8 * array for array in inputs("bfloat16")[:2])
    value = jnp.broadcast_to(jnp.eye(LENGTH, dtype=jnp.float32), (BATCH, HEADS, LENGTH, LENGTH))
    found = np.asarray(attend(query, key, value, MASK, None, 1.0))
    mask = np.broadcast_to(MASK, found.shape)
    assert (found[:2][~mask[:2]] == 0).all()
    assert (found[2] == 1 / LENGTH).all()  # a row without any text
    scores = np.einsum("bhqd,bhkd->bhqk", *(np.asarray(x, np.float64) for x in (query, key)))
    scores = np.where(mask, scores / np.sqrt(SIZE), -np.inf)[:2]
    expected = np.exp(scores - scores.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    # Float32 rounds scores up to 500 to 3e-5. Bfloat16 would round them to 1.
    np.testing.assert_allclose(found[:2], expected, atol=1e-4)


def test_attention_stores_its_probabilities_once_in_the_dtype_of_the_values():
    *given, _ = inputs("bfloat16")
    kept, share = dropout_of("hash")
    _, backward = jax.vjp(lambda *qkv: attend(*qkv, MASK, kept, share), *given)
    squares = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape[-2:] == (LENGTH, LENGTH)]
    assert sorted((str(leaf.dtype), leaf.shape[1]) for leaf in squares) == [
        ("bfloat16", HEADS),
        ("bool", 1),  # the mask, for all heads
    ]
