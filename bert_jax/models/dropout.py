"""Dropout. Its random bits are hashes that are not stored, or an array from `jax.random`."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, UInt32

from bert_jax.models.config import DropoutBits


def lowbias32(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Hashes 32-bit integers one-to-one. If an input bit changes, about 16 output bits change.

    References:
      https://github.com/skeeto/hash-prospector, the two-round function [16 21f0aaad 15 d35a2d97 15]
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0xD35A2D97)
    return x ^ (x >> 15)


def hashed_bits(words: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """Returns 32 random bits for each element of an array: a hash of the element's index and a key.

    A vector is a slice along the last dimension. Its number is hashed with each integer of the key
    `words`. The index of an element in its vector is hashed with the first result, and then with
    the second. With a single hash, some vectors would get the bits of another vector in another
    order. Vectors are numbered over the whole array, so the bits do not depend on the sharding. An
    array must have fewer than 2^32 vectors.
    """
    if math.prod(shape[:-1]) >= 2**32:
        raise ValueError(f"an array of shape {shape} has too many vectors; accepted: below 2^32")
    vectors = (*shape[:-1], 1)
    vector = jnp.zeros(vectors, "uint32")
    for dimension in range(len(shape) - 1):
        stride = jnp.uint32(math.prod(shape[dimension + 1 : -1]))
        vector += jax.lax.broadcasted_iota("uint32", vectors, dimension) * stride
    first, second = lowbias32(vector ^ words[0]), lowbias32(vector + words[1])
    index = jax.lax.broadcasted_iota("uint32", shape, len(shape) - 1)
    return lowbias32(lowbias32(index ^ first) + second)


def _hash_kept(words: Array, shape: tuple[int, ...], rate: float) -> tuple[Array, float]:
    dropped = min(round(rate * 2**32), 2**32 - 1)
    return hashed_bits(words, shape) >= jnp.uint32(dropped), 1 - dropped / 2**32


def _threefry_kept(rng: Array, shape: tuple[int, ...], rate: float) -> tuple[Array, float]:
    """Draws 16 random bits for each element: two elements share a generated 32-bit integer."""
    dropped = min(round(rate * 65536), 65535)
    words = jax.random.bits(rng, (*shape[:-1], -(-shape[-1] // 2)), "uint32")
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16)
    draws = draws.reshape(*words.shape[:-1], -1)[..., : shape[-1]]
    return draws >= dropped, (65536 - dropped) / 65536


def kept_elements(
    rng: Array, shape: tuple[int, ...], *, rate: float, bits: DropoutBits
) -> tuple[Bool[Array, "*shape"], float]:
    """Returns which elements dropout keeps, and the share of elements that it keeps on average.

    The rate is first rounded to a multiple of 2^-32 (`bits` 'hash') or 2^-16 ('threefry').
    """
    if bits == "threefry":
        return _threefry_kept(rng, shape, rate)
    return _hash_kept(jax.random.bits(rng, (2,), "uint32"), shape, rate)


def _keep(x: Array, kept: Array, share: float) -> Array:
    """Zeroes the elements that are not `kept`. Divides the others by `share`, the keep rate."""
    # The factor stays in float32: bfloat16 would round it by 0.2 % at a rate of 0.1.
    scaled = (x.astype(jnp.float32) * (1 / share)).astype(x.dtype)
    return jnp.where(kept, scaled, jnp.zeros((), x.dtype))


def _hash_dropout(x: Array, rate: float, words: Array) -> Array:
    return _keep(x, *_hash_kept(words, x.shape, rate))


# The backward pass applies the same dropout to the gradient. It computes the bits again, so only
# the two words of the key are stored.
_recomputed = jax.custom_vjp(_hash_dropout, nondiff_argnums=(1,))
_recomputed.defvjp(
    lambda x, rate, words: (_hash_dropout(x, rate, words), words),
    lambda rate, words, gradient: (_hash_dropout(gradient, rate, words), None),
)


def dropout(x: Array, *, rate: float, rng: Array, bits: DropoutBits = "hash") -> Array:
    """Zeroes elements with probability `rate`. Scales other elements to keep the expected value.

    The rate is first rounded to a multiple of 2^-32 (`bits` 'hash') or 2^-16 ('threefry'). The
    scaling uses the rounded rate.
    """
    if bits == "threefry":
        return _keep(x, *_threefry_kept(rng, x.shape, rate))
    return _recomputed(x, rate, jax.random.bits(rng, (2,), "uint32"))


class Dropout(nn.Module):
    """Dropout in training, the identity otherwise. The key comes from flax's `dropout` stream."""

    rate: float
    bits: DropoutBits = "hash"

    @nn.compact
    def rng(self, *, train: bool) -> Array | None:
        """Returns the key of this dropout, or None if there is no dropout."""
        return self.make_rng("dropout") if train and self.rate else None

    def __call__(self, x: Array, *, train: bool) -> Array:
        rng = self.rng(train=train)
        return x if rng is None else dropout(x, rate=self.rate, rng=rng, bits=self.bits)
