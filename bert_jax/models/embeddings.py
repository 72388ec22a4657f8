"""The sum of token, segment and position embeddings."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bert_jax.errors import ConfigError
from bert_jax.models.config import BertConfig
from bert_jax.models.dropout import Dropout
from bert_jax.models.layers import LayerNorm, kernel_initializer, partitioned
from bert_jax.sharding import ShardingRules, constrain, whole_rows


class Embeddings(nn.Module):
    """Adds three learned embeddings, then applies LayerNorm and dropout."""

    config: BertConfig
    rules: ShardingRules | None = None

    added = ("position", "segment")
    """The tables that are added to the token table; a subclass may leave some out."""

    def setup(self):
        c = self.config

        def initialize(rng: Array, shape: tuple[int, int]) -> Array:
            # LAMB uses the norm of the table. Padding rows are 0 and do not change this norm.
            is_word = jnp.arange(shape[0])[:, None] < c.vocab_size
            return jnp.where(is_word, kernel_initializer(c)(rng, shape), 0)

        def table(name: str, rows: int, dimension: str) -> Array:
            first = initialize if dimension == "vocab" else kernel_initializer(c)
            names = (dimension, "embed")
            value = self.param(name, partitioned(first, names), (rows, c.hidden_size))
            return whole_rows(value, names, self.rules)

        self.token_table = table("token", c.padded_vocab_size, "vocab")
        if "position" in self.added:
            self.position_table = table("position", c.max_positions, "positions")
        if "segment" in self.added:
            self.segment_table = table("segment", c.num_segments, "segments")
        self.layer_norm = LayerNorm(c)
        self.dropout = Dropout(c.dropout, c.dropout_bits)

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        segment_ids: Int[Array, "batch length"],
        position_ids: Int[Array, "batch length"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "batch length embed"]:
        """Returns the embeddings of a batch.

        Without `position_ids`, the position of a token is its index in the row.
        """
        length = token_ids.shape[1]
        if length > self.config.max_positions:
            raise ConfigError(
                f"the input has {length} positions; accepted: at most model.max_positions, "
                f"{self.config.max_positions}"
            )
        # If the table were sharded along `embed`, XLA would gather it whole for a lookup.
        x = jnp.take(constrain(self.token_table, ("vocab", None), self.rules), token_ids, 0)
        if "segment" in self.added:
            # The gradient of a product with one-hot vectors is a product, not a scatter.
            one_hot = jax.nn.one_hot(segment_ids, self.config.num_segments, dtype=x.dtype)
            x = x + one_hot @ self.segment_table
        if "position" in self.added:
            positions = self.position_table[:length]
            if position_ids is not None:
                table = constrain(self.position_table, ("positions", None), self.rules)
                positions = jnp.take(table, position_ids, 0)
            x = x + positions
        return self.dropout(self.layer_norm(x), train=train)
