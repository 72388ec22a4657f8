"""Pooling: makes one vector for a text from the outputs of its tokens.

[CLS] and [SEP] count as tokens, but padding does not.

cls: the output of the last layer at the first position.
pooled: cls after the pooler's dense layer and tanh. Next-sentence prediction trains the pooler.
mean, max: the mean or the maximum over the tokens, in each dimension of the last layer.
last4: the average of the last four layers (or of all, if fewer), then the mean over the tokens.

References:
  Devlin et al. 2018, section 5.3 (averages of layers)
  Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084 ([CLS], mean and max for sentences)
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bert_jax.errors import ConfigError, require
from bert_jax.models.bert import EncoderOutput
from bert_jax.models.config import Pooling

LAYERS_AVERAGED = 4


def token_vectors(
    output: EncoderOutput, layers: Literal["last", "last4"]
) -> Float[Array, "batch length embed"]:
    """Returns a float32 vector for each position: the last layer, or the average of the last four.

    Raises:
      ConfigError: `layers` is last4 and the output has no hidden states.
    """
    if layers == "last":
        return output.sequence_output.astype(jnp.float32)
    if output.hidden_states is None:
        raise ConfigError("pooling 'last4' needs the encoder's keep_hidden_states")
    return output.hidden_states[-LAYERS_AVERAGED:].astype(jnp.float32).mean(0)


def pool(
    output: EncoderOutput, mask: Bool[Array, "batch length"], pooling: Pooling
) -> Float[Array, "batch embed"]:
    """Returns a float32 vector for each row; mean, max and last4 of a row without tokens are 0.

    Args:
      output: the encoder's output for rows of one text or pair; last4 needs `hidden_states`.
      mask: True at tokens, False at padding.

    Raises:
      ConfigError: `pooling` is unknown, or it is last4 and the output has no hidden states.
    """
    last = token_vectors(output, "last")
    if pooling == "cls":
        return last[:, 0]
    if pooling == "pooled":
        return output.pooled_output[:, 0].astype(jnp.float32)
    if pooling == "max":
        largest = jnp.where(mask[..., None], last, jnp.finfo(jnp.float32).min).max(1)
        return jnp.where(mask.any(1, keepdims=True), largest, 0)
    if pooling == "last4":
        last = token_vectors(output, "last4")
    else:
        require(pooling == "mean", "pooling", pooling, ", ".join(get_args(Pooling)))
    weights = mask[..., None].astype(jnp.float32)
    return (last * weights).sum(1) / jnp.maximum(weights.sum(1), 1)
