"""The two objectives: arrays in, Mean out."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bert_jax.training.metrics import Mean


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is minimized: masked language model loss + next-sentence loss."""

    mlm_reduction: Literal["mean", "sum"] = "mean"
    """Over all masked words of the global batch; or summed over a pair's, averaged over pairs."""


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


def mlm_objective(
    loss: Mean, pack_ids: Int[Array, "batch length"], config: ObjectiveConfig
) -> Float[Array, ""]:
    """Reduces the masked words' total loss as the config says; `pack_ids` count the pairs."""
    if config.mlm_reduction == "sum":
        return Mean(loss.total, pack_ids.max(-1).sum()).compute()
    return loss.compute()
