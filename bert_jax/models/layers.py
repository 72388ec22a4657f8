"""The layers that BERT is made of: Dense, LayerNorm and the feed-forward block.

Parameters are float32. Layers compute in `model.dtype`, except LayerNorm, which uses float32.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from bert_jax.cpu import kernel_gradient
from bert_jax.models.config import BertConfig


def partitioned(initializer: Callable[..., Array], names: Sequence[str]) -> Callable[..., Any]:
    """Returns an initializer that names the dimensions of its parameter."""
    return nn.with_logical_partitioning(initializer, tuple(names))


def kernel_initializer(config: BertConfig) -> Callable[..., Array]:
    """Returns the initializer of matrices and tables.

    The truncated normal is cut at two standard deviations and not rescaled, so its own standard
    deviation is 0.88 x `model.initializer_stddev`. google-research/bert initializes in the same
    way, with TensorFlow's `truncated_normal_initializer`.
    """
    initializers = jax.nn.initializers
    if config.initializer == "normal":
        return initializers.normal(config.initializer_stddev)
    return initializers.truncated_normal(config.initializer_stddev)


@jax.custom_vjp
def product(
    x: Float[Array, "batch length inputs"], kernel: Float[Array, "inputs outputs"]
) -> Float[Array, "batch length outputs"]:
    """Returns a float32 product of matrices in the dtype of `x`.

    Both gradients accumulate in float32. The gradient of the kernel has the dtype of the kernel.
    """
    return jnp.einsum("bsi,io->bso", x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


def _product_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    gradient = gradient.astype(x.dtype)
    to_x = jnp.einsum(
        "bso,io->bsi", gradient, kernel.astype(x.dtype), preferred_element_type=jnp.float32
    )
    return to_x.astype(x.dtype), kernel_gradient(x, gradient, kernel.dtype)


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _product_backward)


class Dense(nn.Module):
    """An affine map; `inputs` and `outputs` map the names of dimensions to their sizes."""

    config: BertConfig
    inputs: dict[str, int]
    outputs: dict[str, int]
    logits: bool = False
    """Whether the result stays in float32, because a loss follows; else it has `model.dtype`."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch length *inputs"]) -> Array:
        dtype = jnp.dtype(self.config.dtype)
        in_shape, out_shape = tuple(self.inputs.values()), tuple(self.outputs.values())
        kernel = self.param(
            "kernel",
            partitioned(kernel_initializer(self.config), (*self.inputs, *self.outputs)),
            in_shape + out_shape,
        )
        zeros = partitioned(nn.initializers.zeros_init(), (*self.outputs,))
        bias = self.param("bias", zeros, out_shape) if self.config.biases else None
        in_size, out_size = math.prod(in_shape), math.prod(out_shape)
        y = product(
            x.reshape(*x.shape[:2], in_size).astype(dtype), kernel.reshape(in_size, out_size)
        )
        y = y if bias is None else y + bias.reshape(out_size)
        return y.astype(y.dtype if self.logits else dtype).reshape(*x.shape[:2], *out_shape)


def _layer_norm(
    x: Float[Array, "*batch embed"],
    scale: Float[Array, "embed"],
    bias: Float[Array, "embed"],
    epsilon: float,
) -> Float[Array, "*batch embed"]:
    """Normalizes the last dimension in float32. The backward pass uses `x` and two statistics."""
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    variance = jnp.square(centred).mean(-1, keepdims=True)
    deviation = jax.lax.rsqrt(variance + epsilon)
    return (centred * deviation * scale + bias).astype(x.dtype), (x, scale, mean, deviation)


def _layer_norm_backward(
    epsilon: float, residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array]:
    del epsilon  # it is in `deviation`
    x, scale, mean, deviation = residuals
    normal = (x.astype(jnp.float32) - mean) * deviation
    wide = gradient.astype(jnp.float32)
    leading = tuple(range(x.ndim - 1))
    to_normal = wide * scale
    common = to_normal.mean(-1, keepdims=True)
    along = (to_normal * normal).mean(-1, keepdims=True)
    to_x = deviation * (to_normal - common - normal * along)
    return to_x.astype(x.dtype), (wide * normal).sum(leading), wide.sum(leading)


layer_norm = jax.custom_vjp(_layer_norm, nondiff_argnums=(3,))
layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """Layer normalization over the last dimension. It computes in float32.

    References:
      Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450
    """

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
        size = (x.shape[-1],)
        ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
        scale = self.param("scale", partitioned(ones, ("embed",)), size)
        if self.config.biases:
            bias = self.param("bias", partitioned(zeros, ("embed",)), size)
        else:
            bias = jnp.zeros(size)
        y = layer_norm(x, scale, bias, self.config.layer_norm_epsilon)
        return y.astype(jnp.dtype(self.config.dtype))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def _activation(x: Array, name: str) -> Array:
    """Applies an activation. Only `x` is stored for the backward pass.

    `gelu_erf` is the exact GELU. It computes erf, because `jax.nn.gelu` computes erfc, which is
    slower. `gelu_tanh` is the approximation.

    References:
      Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415
    """
    if name == "gelu_erf":
        return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))
    return _ACTIVATIONS[name](x)


def _activation_backward(name: str, x: Array, gradient: Array) -> tuple[Array]:
    """Differentiates in float32. The derivative of `gelu_erf` is cdf(x) + x pdf(x), for N(0, 1)."""
    wide = x.astype(jnp.float32)
    if name == "gelu_erf":
        density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * math.pi) ** -0.5
        slope = 0.5 * (1 + jax.lax.erf(wide * 0.5**0.5)) + wide * density
    else:
        slope = jax.grad(lambda x: _ACTIVATIONS[name](x).sum())(wide)
    return ((gradient.astype(jnp.float32) * slope).astype(x.dtype),)


activation = jax.custom_vjp(_activation, nondiff_argnums=(1,))
activation.defvjp(lambda x, name: (_activation(x, name), x), _activation_backward)


class FeedForward(nn.Module):
    """A dense layer to the intermediate size, an activation, and a dense layer back."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        c = self.config
        embed, mlp = {"embed": c.hidden_size}, {"mlp": c.feed_forward_size}
        x = activation(Dense(c, embed, mlp, name="intermediate")(x), c.activation)
        return Dense(c, mlp, embed, name="output")(x)
