"""The masked-LM loss and the next-sentence loss, as functions of arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bert_jax.config import check_bounds
from bert_jax.training.metrics import Mean


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The training loss: masked language model loss + next-sentence loss.

    An experiment may have another loss: a subclass that overrides `build`.
    """

    mlm_reduction: Literal["mean", "sum"] = "mean"
    """`mean`: mean over all masked words of the global batch. `sum`: sum over the masked words of
    each pair, then mean over pairs."""
    next_sentence: bool = True
    """Whether to train on pair labels (`data.pairs`). If False, no nsp_ metric is reported."""

    def __post_init__(self):
        check_bounds(self, "objective")

    def build(self) -> Callable[..., Float[Array, ""]]:
        """Returns the function that computes the loss of a microbatch, with these arguments.

        `mlm` and `nsp` are the sums of the cross entropy of the masked words and of the pair labels
        of the microbatch. `weights` are the divisors of such sums over the global batch, so the
        losses of all microbatches add up. Keyword arguments: the float32 `token_logits` [batch,
        predictions, vocab], and `mask_weights` [batch, predictions], 1 at masked words, else 0.
        """
        return partial(pretraining_objective, config=self)


@jax.custom_vjp
def cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Returns the negative log likelihood of the labels, in nats.

    Logits may be -inf, except the logit of the label. The gradient, softmax minus the one-hot
    label, is written by hand: the backward pass needs no stored array over the vocabulary except
    the logits, and no scatter. Passes over such arrays take most of the masked-token head's time.
    """
    return jax.nn.logsumexp(logits, axis=-1) - _of_labels(logits, labels)


def _of_labels(logits: Array, labels: Array) -> Array:
    return jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


def _cross_entropy_forward(logits: Array, labels: Array) -> tuple[Array, tuple[Array, ...]]:
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    return normalizer - _of_labels(logits, labels), (logits, labels, normalizer)


def _cross_entropy_backward(
    residuals: tuple[Array, ...], gradient: Array
) -> tuple[Array, np.ndarray]:
    logits, labels, normalizer = residuals
    probabilities = jnp.exp(logits - normalizer[..., None])
    is_label = jnp.arange(logits.shape[-1]) == labels[..., None]
    to_logits = (probabilities - is_label) * gradient[..., None]
    return to_logits, np.zeros(labels.shape, jax.dtypes.float0)


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def accuracy(
    logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    weights: Float[Array, "*batch"],
) -> Mean:
    """Returns the weighted accuracy. If k logits share the maximum, a label among them counts 1/k.

    `jnp.argmax` would be slower on a CPU, and would always choose the first of k equal logits.
    """
    of_label, highest = _of_labels(logits, labels), logits.max(-1)
    ties = (logits == highest[..., None]).sum(-1)
    return Mean.of(jnp.where(of_label == highest, 1 / ties, 0), weights)


class LossWeights(NamedTuple):
    """The divisors of the two summed losses of a global batch."""

    mlm: Float[Array, ""]
    nsp: Float[Array, ""]


def loss_weights(
    mask_weights: Float[Array, "batch predictions"],
    pair_weights: Float[Array, "batch pairs"],
    pack_ids: Int[Array, "batch length"],
    config: ObjectiveConfig,
) -> LossWeights:
    """Returns the divisors for a batch. A divisor is at least 1."""
    mlm = mask_weights if config.mlm_reduction == "mean" else pack_ids.max(-1)
    return LossWeights(
        jnp.maximum(mlm.sum().astype(jnp.float32), 1), jnp.maximum(pair_weights.sum(), 1)
    )


def pretraining_objective(
    mlm: Mean, nsp: Mean, weights: LossWeights, config: ObjectiveConfig, **_: Array
) -> Float[Array, ""]:
    """Returns masked-LM loss + next-sentence loss: summed losses, divided by `weights`."""
    loss = jnp.divide(mlm.total, weights.mlm)
    return loss + jnp.divide(nsp.total, weights.nsp) if config.next_sentence else loss
