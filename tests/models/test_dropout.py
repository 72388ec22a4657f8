"""Properties of dropout: rate, expectation, gradient, and statistics of the hashed bits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.models.dropout import Dropout, dropout, hashed_bits, lowbias32

WORD = 32
KEYS = [(0, 0), (0, 1), (1, 0), (1, 1), (2**31, 7), (2**32 - 1, 2**32 - 1)]
"""Pairs of key words. Words that differ in one bit are the hardest for a hash."""


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def bits_of(key, shape):
    return np.asarray(jax.jit(hashed_bits, static_argnums=1)(jnp.asarray(key, "uint32"), shape))


def ones(words):
    """Returns the number of bits that are 1, for each of the 32 places of a word."""
    return np.array([np.count_nonzero(words & np.uint32(1 << place)) for place in range(WORD)])


@pytest.mark.parametrize("bits", ["hash", "threefry"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_expectation(rate, bits):
    shape = (40, 50, 101)  # odd size: half of the last generated word is unused
    x = normal(*shape).astype(np.float32)
    found = np.asarray(dropout(jnp.asarray(x), rate=rate, rng=jax.random.key(3), bits=bits))
    kept = found != 0
    count = x.size
    # 5 deviations of a binomial; the rate itself is rounded by up to 2^-17.
    bound = 5 * math.sqrt(rate * (1 - rate) / count)
    assert abs((1 - kept.mean()) - rate) < bound + 2**-17
    # Kept elements are scaled by 1 / (1 - rate), up to the rounding of the rate and of float32.
    np.testing.assert_allclose(found[kept], x[kept] / (1 - rate), rtol=1e-4)
    # At each index of the last dimension the mean over the others is within 5 deviations.
    assert np.all(abs((~kept).mean((0, 1)) - rate) < 5 * math.sqrt(rate * (1 - rate) / 2000))


def test_threefry_draws_of_one_generated_word_are_independent():
    """Two draws share 32 random bits; the draws of a word and of adjacent words are independent."""
    rate = 0.3
    x = jnp.ones((1000, 100))
    dropped = np.asarray(dropout(x, rate=rate, rng=jax.random.key(4), bits="threefry")) == 0
    for first, second in (
        (dropped[:, ::2], dropped[:, 1::2]),
        (dropped[:, 1:-1:2], dropped[:, 2::2]),
    ):
        p = rate**2
        # 5 deviations of a binomial over at least 49,000 pairs.
        assert abs((first & second).mean() - p) < 5 * math.sqrt(p * (1 - p) / first.size)


def test_dropout_is_a_function_of_its_key():
    x = jnp.ones((16, 64))
    first = dropout(x, rate=0.5, rng=jax.random.key(0))
    np.testing.assert_array_equal(first, dropout(x, rate=0.5, rng=jax.random.key(0)))
    other = dropout(x, rate=0.5, rng=jax.random.key(1))
    # Independent masks of rate 1/2 differ at half of 1024 places, within 5 deviations.
    assert abs(np.mean(first != other) - 0.5) < 5 * 0.5 / 32


def test_dropout_of_bfloat16_keeps_the_expectation():
    """The scale is not rounded to bfloat16: 1.1094 instead of 1 / 0.9 would lose 0.16%."""
    x = jnp.asarray(1 + np.random.default_rng(0).random((200, 500)), jnp.bfloat16)
    found = dropout(x, rate=0.1, rng=jax.random.key(5))
    assert found.dtype == jnp.bfloat16
    found, x = np.asarray(found, np.float64), np.asarray(x, np.float64)
    kept = found != 0
    ratio = found[kept].sum() / x[kept].sum()
    # Rounding 1.11 x to bfloat16 errs by up to 2^-8 in either direction. The average error over
    # the 128 fractions is 3e-5 at this rate. A rounded scale errs by 1.6e-3.
    assert ratio == pytest.approx(1 / 0.9, rel=5e-4)


def test_dropout_does_nothing_outside_training_and_needs_no_key():
    x = jnp.asarray(normal(4, 8))
    assert Dropout(0.5).apply({}, x, train=False) is x
    assert Dropout(0.0).apply({}, x, train=True) is x
    dropped = Dropout(0.5).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert np.any(dropped == 0)


def test_the_backward_pass_drops_the_elements_that_the_forward_pass_dropped():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 10)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)
    key = jax.random.key(2)

    def gradient(bits):
        def total(x):
            return (dropout(x, rate=0.4, rng=key, bits=bits) * weights).sum()

        return jax.grad(total)(x)

    kept = dropout(x, rate=0.4, rng=key) != 0
    # Dropout is linear, so the gradient is weight / (1 - rate) where an element is kept.
    np.testing.assert_allclose(gradient("hash"), np.where(kept, weights / 0.6, 0), rtol=1e-6)
    kept = dropout(x, rate=0.4, rng=key, bits="threefry") != 0
    np.testing.assert_allclose(gradient("threefry"), np.where(kept, weights / 0.6, 0), rtol=1e-4)


def test_the_backward_pass_stores_two_words_and_no_mask():
    x = jnp.ones((64, 128))
    _, backward = jax.vjp(lambda x: dropout(x, rate=0.1, rng=jax.random.key(0)), x)
    assert sum(leaf.size for leaf in jax.tree.leaves(backward)) <= 4


def test_the_hash_maps_words_one_to_one():
    """Its inverse is written out: an xor-shift is undone by repeating it, a product by the inverse
    of its odd factor modulo 2^32."""
    words = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    x = np.asarray(lowbias32(jnp.asarray(words)))
    x = x ^ (x >> 15) ^ (x >> 30)
    x = x * np.uint32(pow(0xD35A2D97, -1, 2**32))
    x = x ^ (x >> 15) ^ (x >> 30)
    x = x * np.uint32(pow(0x21F0AAAD, -1, 2**32))
    np.testing.assert_array_equal(x ^ (x >> 16), words)


def test_an_array_with_too_many_vectors_is_refused():
    with pytest.raises(ValueError, match="too many vectors; accepted: below 2"):
        jax.eval_shape(lambda words: hashed_bits(words, (2**16, 2**16, 1)), jnp.zeros(2, "uint32"))


# ---- Statistics of the hashed bits. The default suite draws 2^22 bits, the slow suite 2^28. ------

SIZES = [2**17, pytest.param(2**23, marks=pytest.mark.slow)]
"""Words of 32 bits: 2^22 bits, and 2^28."""
DEVIATIONS = 6
"""A normal number exceeds 6 deviations with probability 2e-9; a test makes at most 1e4 draws."""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", KEYS)
def test_each_bit_is_one_in_half_of_the_words(key, size):
    counts = ones(bits_of(key, (size // 512, 512)).ravel())
    assert np.all(abs(counts - size / 2) < DEVIATIONS * math.sqrt(size) / 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", KEYS)
def test_dropped_counts_fit_the_binomial_distribution(key, size):
    """A chi-square test of the number of dropped elements among 64 neighbours, at a rate of 0.1."""
    words = bits_of(key, (size // 512, 512))
    dropped = (words < np.uint32(0.1 * 2**32)).reshape(-1, 64).sum(-1)
    k = np.arange(65)
    log_choose = np.array([math.lgamma(65) - math.lgamma(i + 1) - math.lgamma(65 - i) for i in k])
    expected = np.exp(log_choose + k * math.log(0.1) + (64 - k) * math.log(0.9)) * len(dropped)
    # Cells of few expected counts are merged into one at each end.
    low, high = np.flatnonzero(expected > 20)[[0, -1]]
    found = np.bincount(np.clip(dropped, low, high), minlength=high + 1)[low:]
    cells = expected[low : high + 1].copy()
    cells[0] += expected[:low].sum()
    cells[-1] += expected[high + 1 :].sum()
    statistic, freedom = np.sum((found - cells) ** 2 / cells), len(cells) - 1
    assert abs(statistic - freedom) < DEVIATIONS * math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("length", [128, 512, 2**17])
def test_neighbouring_elements_and_vectors_are_not_correlated(length, size):
    """Compares the top bits, which decide about a drop, at lags in a vector and between vectors."""
    words = bits_of((3, 4), (size // length, length))
    signs = np.where(words >> 31, 1, -1).astype(np.int8)
    compared = 0
    for lag in (1, 2, 3, 4, 7, 8, 16, 32, 64, 100, 128, 256, 511, 1024):
        for both in (signs[:, lag:] * signs[:, :-lag], signs[lag:] * signs[:-lag]):
            if not both.size:  # the lag is longer than a vector, or than their number
                continue
            compared += 1
            assert abs(both.sum(dtype=np.int64)) <= DEVIATIONS * math.sqrt(both.size), lag
    assert compared >= 14


@pytest.mark.parametrize("size", SIZES)
def test_masks_of_different_keys_are_not_correlated(size):
    """Keys are those of seeds, steps, layers and places as a training step derives them."""
    streams = []
    for seed in (0, 1):
        stream = jax.random.fold_in(jax.random.key(seed), 1)
        for step in (0, 1, 2):
            at_step = jax.random.fold_in(stream, step)
            for layer in jax.random.split(at_step, 2):
                for place in (0, 1):
                    words = jax.random.bits(jax.random.fold_in(layer, place), (2,), "uint32")
                    drawn = bits_of(words, (size // 512, 512)).ravel()
                    streams.append(np.where(drawn >> 31, 1, -1).astype(np.int8))
    for first in range(len(streams)):
        for second in range(first):
            product = streams[first] * streams[second]
            assert abs(product.sum(dtype=np.int64)) < DEVIATIONS * math.sqrt(size), (first, second)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("word", [0, 1])
def test_each_bit_of_the_key_changes_half_of_the_bits(word, size):
    """Avalanche: a changed bit of the key flips each bit of the hash with probability 1/2."""
    count = size // 32
    key = np.array([0x12345678, 0x9ABCDEF0], np.uint32)
    before = bits_of(key, (count // 128, 128)).ravel()
    for place in range(WORD):
        changed = key.copy()
        changed[word] ^= np.uint32(1 << place)
        flips = ones(before ^ bits_of(changed, (count // 128, 128)).ravel())
        assert np.all(abs(flips - count / 2) < DEVIATIONS * math.sqrt(count) / 2), place


@pytest.mark.parametrize("size", SIZES)
def test_each_bit_of_the_index_changes_half_of_the_bits(size):
    words = bits_of((5, 6), (1, size)).ravel()
    index = np.arange(size)
    for place in range(size.bit_length() - 1):
        low = index[(index >> place) & 1 == 0]
        flips = ones(words[low] ^ words[low | 1 << place])
        bound = DEVIATIONS * math.sqrt(len(low)) / 2
        assert np.all(abs(flips - len(low) / 2) < bound), place
