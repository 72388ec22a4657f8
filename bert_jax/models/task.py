"""BERT for a task: the encoder and one output layer."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from bert_jax.models.config import BertConfig, Pooling, TaskHeadConfig
from bert_jax.models.dropout import Dropout
from bert_jax.models.layers import Dense
from bert_jax.models.pooling import pool, token_vectors
from bert_jax.sharding import ShardingRules


def example_ids() -> tuple[Int[np.ndarray, "1 1"], ...]:
    """Returns small token, segment and pack ids to initialize a model with."""
    return (np.zeros((1, 1), np.int32),) * 3


class BertForTask(nn.Module):
    """BERT with one dense layer on the vector of a text, or on the vector of each token."""

    config: BertConfig
    head: TaskHeadConfig
    frozen: bool = False
    """Whether the encoder gets no gradient and no dropout."""
    rules: ShardingRules | None = None

    def setup(self):
        self.bert = self.config.build(self.rules)
        width = {"embed": self.config.hidden_size}
        self.output = Dense(self.config, width, {"classes": self.head.outputs}, logits=True)
        self.output_dropout = Dropout(
            self.config.dropout if self.head.dropout else 0.0, self.config.dropout_bits
        )

    def features(
        self,
        token_ids: Int[Array, "batch length"],
        segment_ids: Int[Array, "batch length"],
        pack_ids: Int[Array, "batch length"],
        *,
        train: bool = False,
    ) -> Float[Array, "batch positions embed"]:
        """Returns the float32 input of the output layer: a vector for each row or each position."""
        output = self.bert(
            token_ids,
            segment_ids,
            pack_ids,
            jnp.zeros((token_ids.shape[0], 1), jnp.int32),
            train=train,
            keep_hidden_states=self.head.representation == "last4",
        )
        if self.head.unit == "token":
            return token_vectors(output, cast(Any, self.head.representation))
        return pool(output, pack_ids > 0, cast(Pooling, self.head.representation))[:, None]

    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        segment_ids: Int[Array, "batch length"],
        pack_ids: Int[Array, "batch length"],
        *,
        train: bool = False,
    ) -> Float[Array, "batch *length outputs"]:
        """Returns float32 logits for each row or each position."""
        x = self.features(token_ids, segment_ids, pack_ids, train=train and not self.frozen)
        if self.frozen:
            x = jax.lax.stop_gradient(x)
        logits = self.output(self.output_dropout(x, train=train))
        return logits[:, 0] if self.head.unit == "text" else logits
