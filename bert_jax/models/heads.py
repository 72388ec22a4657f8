"""The pooler and the two pretraining heads."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bert_jax.models.config import BertConfig
from bert_jax.models.layers import Dense, LayerNorm, activation, partitioned, product
from bert_jax.sharding import ShardingRules, constrain


def gather_positions(
    sequence: Float[Array, "batch length embed"], positions: Int[Array, "batch picked"]
) -> Float[Array, "batch picked embed"]:
    """Returns the vectors at the given positions of each row."""
    return jnp.take_along_axis(sequence, positions[..., None], axis=1)


class Pooler(nn.Module):
    """A dense layer and tanh on the vector of [CLS]."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch pairs embed"]) -> Float[Array, "batch pairs embed"]:
        size = self.config.hidden_size
        return jnp.tanh(Dense(self.config, {"embed": size}, {"mlp": size}, name="dense")(x))


class MaskedTokenHead(nn.Module):
    """Dense layer, activation, LayerNorm, then a product with the token table, plus a bias.

    The token table has `padded_vocab_size` rows. The logits of rows from `vocab_size` on are -inf.
    """

    config: BertConfig
    rules: ShardingRules | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch predictions embed"], token_table: Float[Array, "vocab embed"]
    ) -> Float[Array, "batch predictions vocab"]:
        c = self.config
        x = Dense(c, {"embed": c.hidden_size}, {"mlp": c.hidden_size}, name="transform")(x)
        x = LayerNorm(c, name="layer_norm")(activation(x, c.activation))
        table = constrain(token_table, ("vocab", None), self.rules)
        zeros = partitioned(nn.initializers.zeros_init(), ("vocab",))
        bias = self.param("bias", zeros, (c.padded_vocab_size,))
        bias = jnp.where(jnp.arange(c.padded_vocab_size) < c.vocab_size, bias, -jnp.inf)
        logits = product(x, table.T) + bias
        return constrain(logits, ("batch", "predictions", "activation_vocab"), self.rules)


class NextSentenceHead(nn.Module):
    """Two logits from the pooled output: B follows A, or B does not (B is random or earlier)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch pairs embed"]) -> Float[Array, "batch pairs 2"]:
        embed = {"embed": self.config.hidden_size}
        return Dense(self.config, embed, {"classes": 2}, logits=True, name="dense")(x)
