"""BERT for a task: the encoder and one output layer."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from bert_jax.models.bert import Bert, EncoderOutput
from bert_jax.models.config import BertConfig, TaskHeadConfig
from bert_jax.models.layers import Dense, Dropout
from bert_jax.training.sharding import ShardingRules

LAYERS_SIDE_BY_SIDE = 4


def represent_text(
    output: EncoderOutput, real: Bool[Array, "batch length"], representation: str
) -> Float[Array, "batch width"]:
    """Returns one vector a text; `mean` and `max` are over its positions, the special ones too.

    `cls` is the first position: of the last layer, or for `last4` of the last four side by side.
    """
    if representation == "pooled":
        return output.pooled_output[:, 0]
    weights, x = real[..., None], output.sequence_output
    if representation == "mean":
        total = jnp.where(weights, x.astype(jnp.float32), 0).sum(1)
        return (total / jnp.maximum(weights.sum(1), 1)).astype(x.dtype)
    if representation == "max":
        highest = jnp.where(weights, x, jnp.finfo(x.dtype).min).max(1)
        return jnp.where(weights.any(1), highest, 0)  # rows that only fill up a batch have none
    return x[:, 0]


def example_ids() -> tuple[Int[np.ndarray, "1 8"], ...]:
    """Returns token, segment and pack ids to initialize with."""
    return (np.zeros((1, 8), np.int32),) * 3


class BertForTask(nn.Module):
    """BERT with one dense layer on a text's representation or on each token's."""

    config: BertConfig
    head: TaskHeadConfig
    frozen: bool = False
    """The encoder is neither trained nor disturbed by dropout."""
    rules: ShardingRules | None = None

    def setup(self):
        layers = LAYERS_SIDE_BY_SIDE if self.head.representation == "last4" else 1
        self.bert = Bert(self.config, self.rules, output_layers=layers)
        width = self.config.hidden_size * layers
        self.output = Dense(self.config, {"embed": width}, {"classes": self.head.outputs})
        self.output_dropout = Dropout(self.config.dropout if self.head.dropout else 0.0)

    def features(
        self,
        token_ids: Int[Array, "batch length"],
        segment_ids: Int[Array, "batch length"],
        pack_ids: Int[Array, "batch length"],
        *,
        train: bool = False,
    ) -> Float[Array, "batch positions width"]:
        """Returns what the output layer sees: a row's representation, or each position's."""
        first = jnp.zeros((token_ids.shape[0], 1), jnp.int32)
        output = self.bert(token_ids, segment_ids, pack_ids, first, train=train)
        if self.head.unit == "token":
            return output.sequence_output
        return represent_text(output, pack_ids > 0, self.head.representation)[:, None]

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        segment_ids: Int[Array, "batch length"],
        pack_ids: Int[Array, "batch length"],
        *,
        train: bool = False,
    ) -> Float[Array, "batch *length outputs"]:
        """Returns float32 logits, of each row or of each position."""
        x = self.features(token_ids, segment_ids, pack_ids, train=train and not self.frozen)
        if self.frozen:
            x = jax.lax.stop_gradient(x)
        logits = self.output(self.output_dropout(x, train=train)).astype(jnp.float32)
        return logits[:, 0] if self.head.unit == "text" else logits
