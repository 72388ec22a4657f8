"""Bidirectional self-attention."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bert_jax.models.config import BertConfig
from bert_jax.models.dropout import Dropout, DropoutBits, dropout
from bert_jax.models.layers import Dense


def attention_mask(pack_ids: Int[Array, "batch length"]) -> Bool[Array, "batch 1 queries keys"]:
    """Returns True where a query may see a key: at the real tokens of its own pair.

    A query at padding sees every real token of its row. The published model does the same,
    because it masks keys only.
    """
    queries, keys = pack_ids[:, None, :, None], pack_ids[:, None, None, :]
    return (keys > 0) & ((keys == queries) | (queries == 0))


def attention_probabilities(
    query: Float[Array, "batch heads queries head_dim"],
    key: Float[Array, "batch heads keys head_dim"],
    mask: Bool[Array, "batch 1 queries keys"],
) -> Float[Array, "batch heads queries keys"]:
    """Returns the softmax of the masked and scaled dot products, in float32 for every input dtype.

    The probability of a masked key is exactly 0. The published model adds -10000 to its score,
    which gives the same: exp(-10000) is 0 in float32.
    """
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)


def _attend(
    query: Float[Array, "batch heads queries head_dim"],
    key: Float[Array, "batch heads keys head_dim"],
    value: Float[Array, "batch heads keys head_dim"],
    mask: Bool[Array, "batch 1 queries keys"],
    rng: Array | None,
    rate: float,
    bits: DropoutBits,
) -> Float[Array, "batch heads queries head_dim"]:
    """Returns the mean of the values, weighted by the probabilities after dropout.

    The backward pass keeps the probabilities in the dtype of the values, draws the dropout again,
    and multiplies in that dtype with float32 sums. Without an `rng` there is no dropout.
    """
    return _attend_forward(query, key, value, mask, rng, rate, bits)[0]


def _weights(probabilities: Array, rng: Array | None, rate: float, bits: DropoutBits) -> Array:
    return probabilities if rng is None else dropout(probabilities, rate=rate, rng=rng, bits=bits)


def _attend_forward(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    rng: Array | None,
    rate: float,
    bits: DropoutBits,
) -> tuple[Array, tuple[Array | None, ...]]:
    probabilities = attention_probabilities(query, key, mask).astype(value.dtype)
    weights = _weights(probabilities, rng, rate, bits)
    context = jnp.einsum("bhqk,bhkd->bhqd", weights, value, preferred_element_type=jnp.float32)
    return context.astype(value.dtype), (query, key, value, probabilities, rng)


def _attend_backward(
    rate: float, bits: DropoutBits, residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array | None, ...]:
    query, key, value, probabilities, rng = residuals
    einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
    weights = _weights(probabilities, rng, rate, bits)
    to_value = einsum("bhqk,bhqd->bhkd", weights, gradient)
    to_probabilities = _weights(einsum("bhqd,bhkd->bhqk", gradient, value), rng, rate, bits)
    # The gradient of a softmax; probabilities of masked keys are 0, and so are their gradients.
    wide = probabilities.astype(jnp.float32)
    along = (to_probabilities * wide).sum(-1, keepdims=True)
    to_scores = wide * (to_probabilities - along) * query.shape[-1] ** -0.5
    to_scores = to_scores.astype(value.dtype)
    to_query = einsum("bhqk,bhkd->bhqd", to_scores, key)
    to_key = einsum("bhqk,bhqd->bhkd", to_scores, query)
    dtype = value.dtype
    return to_query.astype(dtype), to_key.astype(dtype), to_value.astype(dtype), None, None


attend = jax.custom_vjp(_attend, nondiff_argnums=(5, 6))
attend.defvjp(_attend_forward, _attend_backward)


class SelfAttention(nn.Module):
    """Multi-head self-attention and its output projection.

    References:
      Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch 1 length length"],
        *,
        train: bool,
    ) -> Float[Array, "batch length embed"]:
        c = self.config
        embed, heads = {"embed": c.hidden_size}, {"heads": c.num_heads, "head_dim": c.head_dim}
        query, key, value = (
            Dense(c, embed, heads, name=name)(x).transpose(0, 2, 1, 3)  # [B, H, S, D]
            for name in ("query", "key", "value")
        )
        rng = Dropout(c.attention_dropout).rng(train=train)
        context = attend(query, key, value, mask, rng, c.attention_dropout, c.dropout_bits)
        return Dense(c, heads, embed, name="output")(context.transpose(0, 2, 1, 3))
