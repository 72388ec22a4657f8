"""Bidirectional self-attention."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bert_jax.models.config import BertConfig
from bert_jax.models.dropout import Dropout
from bert_jax.models.layers import Dense


def attention_mask(pack_ids: Int[Array, "batch length"]) -> Bool[Array, "batch 1 queries keys"]:
    """Returns True where a query may attend to a key: the key is a real token of the query's pair.

    A query at padding attends to every real token of its row. The published model does the same,
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

    The probability of a masked key is exactly 0. The published model adds -10000 to the score of a
    masked key. This also gives 0, because exp(-10000) is 0 in float32.
    """
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)


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
        probabilities = attention_probabilities(query, key, mask)
        probabilities = Dropout(c.attention_dropout, c.dropout_bits)(probabilities, train=train)
        context = jnp.einsum("bhqk,bhkd->bhqd", probabilities.astype(value.dtype), value)
        return Dense(c, heads, embed, name="output")(context.transpose(0, 2, 1, 3))
