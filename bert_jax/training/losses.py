"""The two objectives: arrays in, Mean out."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bert_jax.training.metrics import Mean


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimized: masked language model loss + next-sentence loss."""

    mlm_reduction: Literal["mean", "sum"] = "mean"
    """Over all masked words of the global batch; or summed over a pair's, averaged over pairs."""
    next_sentence: bool = True
    """False leaves the pair loss out; its accuracy is still reported."""


def cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Negative log likelihood of the labels in nats; logits may be -inf off the label."""
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def accuracy(
    logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
) -> Mean:
    """Share of the weighed labels that have the highest logit."""
    return Mean.of(jnp.argmax(logits, axis=-1) == labels, weights)


class LossWeights(NamedTuple):
    """What the totals of the two losses are divided by, over the global batch."""

    mlm: Float[Array, ""]
    nsp: Float[Array, ""]


def loss_weights(
    mask_weights: Float[Array, "batch predictions"],
    pair_weights: Float[Array, "batch pairs"],
    pack_ids: Int[Array, "batch length"],
    config: ObjectiveConfig,
) -> LossWeights:
    """Returns the weights of a batch; `pack_ids` count its pairs and single texts.

    A batch without anything to weigh divides by 1.
    """
    mlm = mask_weights if config.mlm_reduction == "mean" else pack_ids.max(-1)
    return LossWeights(
        jnp.maximum(mlm.sum().astype(jnp.float32), 1), jnp.maximum(pair_weights.sum(), 1)
    )


def pretraining_objective(
    mlm: Mean, nsp: Mean, weights: LossWeights, config: ObjectiveConfig
) -> Float[Array, ""]:
    """Masked-LM loss + next-sentence loss of a batch, or its share in that of the global batch."""
    loss = jnp.divide(mlm.total, weights.mlm)
    return loss + jnp.divide(nsp.total, weights.nsp) if config.next_sentence else loss
