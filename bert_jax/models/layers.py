"""Dense, LayerNorm, dropout and the feed-forward block: names of dimensions and dtypes live here.

Parameters are float32. A layer computes in the dtype of the config; statistics are float32.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bert_jax.models.config import BertConfig


def partitioned(
    initializer: Callable[..., Array], names: Sequence[str]
) -> Callable[..., nn.LogicallyPartitioned]:
    """Returns the initializer of a parameter whose dimensions bear `names`."""
    return nn.with_logical_partitioning(initializer, tuple(names))


def truncated_normal(stddev: float) -> Callable[..., Array]:
    """BERT's initializer: cut at two nominal deviations and not rescaled.

    The realised deviation is 0.88 of the nominal one, as with TensorFlow's
    `truncated_normal_initializer` that google-research/bert uses.
    """
    return jax.nn.initializers.truncated_normal(stddev)


class Dense(nn.Module):
    """An affine map given by an einsum, e.g. `bse,ehd->bhsd` from embed to heads and head_dim.

    The subscripts after the comma are the kernel's; `names` are their names, and those that
    survive into the output carry a bias.
    """

    config: BertConfig
    subscripts: str
    shape: tuple[int, ...]
    names: tuple[str, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs, output = self.subscripts.split("->")
        kernel_letters = inputs.split(",")[1]
        kernel_init = truncated_normal(self.config.initializer_stddev)
        kernel = self.param("kernel", partitioned(kernel_init, self.names), self.shape)
        kept = [letter in output for letter in kernel_letters]
        bias = self.param(
            "bias",
            partitioned(nn.initializers.zeros_init(), _keep(self.names, kept)),
            _keep(self.shape, kept),
        )
        dtype = jnp.dtype(self.config.dtype)
        y = jnp.einsum(
            self.subscripts,
            x.astype(dtype),
            kernel.astype(dtype),
            preferred_element_type=jnp.float32,
        )
        bias_letters = "".join(_keep(kernel_letters, kept))
        return (y + _align(bias, bias_letters, output)).astype(dtype)


def _keep(values: Sequence, kept: Sequence[bool]) -> tuple:
    return tuple(value for value, keep in zip(values, kept, strict=True) if keep)


def _align(bias: Array, letters: str, output: str) -> Array:
    """Gives the bias size-1 dimensions so that it broadcasts over an output of these letters."""
    return bias.reshape([bias.shape[letters.index(o)] if o in letters else 1 for o in output])


class LayerNorm(nn.Module):
    """Layer normalization over the last dimension, computed in float32.

    References:
      Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450
    """

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
        size = (x.shape[-1],)
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", partitioned(ones, ("embed",)), size)
        bias = self.param("bias", partitioned(zeros, ("embed",)), size)
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.config.layer_norm_epsilon)
        return (normal * scale + bias).astype(jnp.dtype(self.config.dtype))


def dropout(x: Array, *, rate: float, rng: Array) -> Array:
    """Zeroes elements with probability `rate` and rescales the rest to keep the expectation.

    A draw is 16 bits, two to a generated word: half the random words for a rate that is met to
    1/131072. The rescaling uses the rate that is realised.
    """
    dropped = round(rate * 65536)
    words = jax.random.bits(rng, (*x.shape[:-1], -(-x.shape[-1] // 2)), "uint32")
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16)
    draws = draws.reshape(*words.shape[:-1], -1)[..., : x.shape[-1]]
    scale = jnp.asarray(65536 / (65536 - dropped), x.dtype)
    return jnp.where(draws >= dropped, x * scale, jnp.zeros((), x.dtype))


class Dropout(nn.Module):
    """Dropout in training, identity otherwise; keys come from the `dropout` stream."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if not train or self.rate == 0:
            return x
        return dropout(x, rate=self.rate, rng=self.make_rng("dropout"))


def activation(x: Array, name: str) -> Array:
    """Applies the named activation.

    `gelu_erf` is the exact form, written with erf rather than the slower erfc of `jax.nn.gelu`;
    `gelu_tanh` is its approximation.

    References:
      Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415
    """
    if name == "gelu_erf":
        return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))
    return jax.nn.gelu(x, approximate=True)


class FeedForward(nn.Module):
    """Dense to the intermediate size, activation, Dense back."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        c = self.config
        shape = (c.hidden_size, c.intermediate_size_or_default)
        x = Dense(c, "bse,ef->bsf", shape, ("embed", "mlp"), name="intermediate")(x)
        x = activation(x, c.activation)
        return Dense(c, "bsf,fe->bse", shape[::-1], ("mlp", "embed"), name="output")(x)
