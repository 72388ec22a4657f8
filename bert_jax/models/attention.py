"""Bidirectional self-attention."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bert_jax.models.config import BertConfig
from bert_jax.models.dropout import Dropout, kept_elements
from bert_jax.models.kernels import kernel_attention
from bert_jax.models.layers import Dense
from bert_jax.sharding import ShardingRules


def attention_mask(pack_ids: Int[Array, "batch length"]) -> Bool[Array, "batch 1 queries keys"]:
    """Returns True where a query may attend to a key: the key is a real token of the query's pair.

    A query at padding attends to every real token of its row. The published model does the same,
    because it masks keys only.
    """
    queries, keys = pack_ids[:, None, :, None], pack_ids[:, None, None, :]
    return (keys > 0) & ((keys == queries) | (queries == 0))


def _attend(
    query: Float[Array, "batch heads queries head_dim"],
    key: Float[Array, "batch heads keys head_dim"],
    value: Float[Array, "batch heads keys head_dim"],
    mask: Bool[Array, "batch 1 queries keys"],
    kept: Bool[Array, "batch heads queries keys"] | None,
    share: float,
) -> Float[Array, "batch heads queries head_dim"]:
    """Returns the mean of the values, weighted by the probabilities after dropout.

    The probabilities are the softmax of the scaled dot products, in float32 for every dtype. The
    probability of a masked key is exactly 0. The published model adds -10000 to the score of a
    masked key. This also gives 0, because exp(-10000) is 0 in float32. If a query may attend
    to no key, all keys have equal probabilities.

    The backward pass uses one stored array of [keys, queries] for each head, in the dtype of the
    values. It multiplies matrices of this dtype and adds the products in float32.

    Args:
      mask: True where a query may attend to a key.
      kept: False where dropout removes a probability; None means no dropout.
      share: the share of the probabilities that dropout keeps on average; 1 without dropout.
    """
    return _attend_forward(query, key, value, mask, kept, share)[0]


def _attend_forward(
    query: Array, key: Array, value: Array, mask: Array, kept: Array | None, share: float
) -> tuple[Array, tuple[Array, ...]]:
    # Keys come before queries, as XLA:TPU stores the array; in the other order it copies it.
    scores = jnp.einsum("bhkd,bhqd->bhkq", key, query, preferred_element_type=jnp.float32)
    mask = mask.swapaxes(2, 3)
    scores = jnp.where(mask, scores * query.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
    # Exponentials instead of probabilities: the smaller output is divided by their sum. A negative
    # sign marks what dropout removes, so the backward pass needs neither an array of the signs nor
    # the random bits. Without the barrier XLA:TPU computes the array twice, to use and to store it.
    signed = jnp.exp(scores - scores.max(2, keepdims=True))
    total = signed.sum(2)[..., None]
    if kept is not None:
        signed = jnp.where(kept.swapaxes(2, 3), signed, -signed)
    signed = jax.lax.optimization_barrier(signed.astype(value.dtype))
    weights = signed if kept is None else jnp.maximum(signed, 0)
    context = jnp.einsum("bhkq,bhkd->bhqd", weights, value, preferred_element_type=jnp.float32)
    context = (context / (total * share)).astype(value.dtype)
    return context, (query, key, value, mask, signed, total, context)


def _attend_backward(
    share: float, residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array | None, ...]:
    query, key, value, mask, signed, total, context = residuals
    dtype, einsum = value.dtype, partial(jnp.einsum, preferred_element_type=jnp.float32)
    # The softmax needs the sum over keys of probability x gradient of the probability. It equals
    # the sum over head_dim of output x gradient of the output, which reads less memory.
    along = (gradient.astype(jnp.float32) * context).sum(-1, keepdims=True) / total
    gradient = (gradient / (total * share)).astype(dtype)
    to_value = einsum("bhkq,bhqd->bhkd", jnp.maximum(signed, 0), gradient)
    to_weights = einsum("bhkd,bhqd->bhkq", value, gradient)
    to_scores = jnp.where(signed > 0, to_weights, 0) - along.swapaxes(2, 3)
    to_scores *= jnp.abs(signed) * query.shape[-1] ** -0.5
    # The scores of masked keys are constants. Only a query without any key gives them weight.
    to_scores = jnp.where(mask, to_scores, 0).astype(dtype)
    to_query = einsum("bhkq,bhkd->bhqd", to_scores, key)
    to_key = einsum("bhkq,bhqd->bhkd", to_scores, query)
    return to_query.astype(dtype), to_key.astype(dtype), to_value.astype(dtype), None, None


attend = jax.custom_vjp(_attend, nondiff_argnums=(5,))
attend.defvjp(_attend_forward, _attend_backward)


def attention_probabilities(
    query: Float[Array, "batch heads queries head_dim"],
    key: Float[Array, "batch heads keys head_dim"],
    mask: Bool[Array, "batch 1 queries keys"],
) -> Float[Array, "batch heads queries keys"]:
    """Returns the float32 probabilities with which `attend` weights the values, before dropout."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    smallest = jnp.finfo(jnp.float32).min
    return jax.nn.softmax(jnp.where(mask, scores * query.shape[-1] ** -0.5, smallest), axis=-1)


class SelfAttention(nn.Module):
    """Multi-head self-attention and its output projection.

    References:
      Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
      Dao et al. 2022, https://arxiv.org/abs/2205.14135 (the sum over head_dim in the backward pass)
    """

    config: BertConfig
    rules: ShardingRules | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "batch 1 length length"],
        places: Array,
        *,
        train: bool,
        keep: bool = False,
    ) -> tuple[
        Float[Array, "batch length embed"], Float[Array, "batch heads length length"] | None
    ]:
        """Returns the output, and if `keep` is True, the attention probabilities.

        `places` are the pack ids of the tokens, or whatever `project` and `weigh` of a subclass
        need to know about the places of the tokens.
        """
        c = self.config
        query, key, value = self.project(x, places)
        context = self.weigh(query, key, value, mask, places, train=train)
        embed, heads = {"embed": c.hidden_size}, {"heads": c.num_heads, "head_dim": c.head_dim}
        output = Dense(c.residual, heads, embed, name="output")(context.transpose(0, 2, 1, 3))
        return output, self.probabilities(query, key, mask) if keep else None

    def project(self, x: Array, places: Array) -> tuple[Array, ...]:
        """Returns queries, keys and values, each [batch, heads, length, head_dim]."""
        c = self.config
        embed, heads = {"embed": c.hidden_size}, {"heads": c.num_heads, "head_dim": c.head_dim}
        names = ("query", "key", "value")
        return tuple(Dense(c, embed, heads, name=n)(x).transpose(0, 2, 1, 3) for n in names)

    def weigh(
        self, query: Array, key: Array, value: Array, mask: Array, places: Array, *, train: bool
    ) -> Float[Array, "batch heads queries head_dim"]:
        """Returns the mean of the values, weighted by the probabilities after dropout."""
        c = self.config
        if c.attention != "einsum" and not self.is_initializing():  # its example batch is too small
            return kernel_attention(query, key, value, places, kernel=c.attention, rules=self.rules)
        rng = Dropout(c.attention_dropout).rng(train=train)
        kept, share = None, 1.0
        if rng is not None:
            shape = (*query.shape[:3], key.shape[2])
            kept, share = kept_elements(rng, shape, rate=c.attention_dropout, bits=c.dropout_bits)
        return attend(query, key, value, mask, kept, share)

    def probabilities(
        self, query: Array, key: Array, mask: Array
    ) -> Float[Array, "batch heads queries keys"]:
        """Returns the float32 probabilities before dropout."""
        return attention_probabilities(query, key, mask)
