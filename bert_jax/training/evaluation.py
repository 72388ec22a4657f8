"""The held-out evaluation: frozen masks, and baselines on the same positions."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bert_jax.data.batch import Batch
from bert_jax.training.metrics import Mean, merge
from bert_jax.training.step import Metrics


def evaluate(
    step: Callable[[Any, Batch], Metrics], params: Any, batches: Iterable[Batch]
) -> dict[str, float]:
    """Returns loss, accuracies and perplexity over all batches, each divided once.

    The loss is the mean masked-word loss plus the mean pair loss, whatever the objective.
    """
    row = merge([step(params, batch) for batch in batches])
    row["loss"] = row["mlm_loss"] + row.get("nsp_loss", 0.0)
    row["perplexity"] = float(np.exp(row["mlm_loss"]))
    return row


def unigram_log_probabilities(token_counts: np.ndarray) -> Float[np.ndarray, "vocab"]:
    """Returns add-one log probabilities, float32, of the training tokens' counts."""
    counts = token_counts.astype(np.float64) + 1
    return np.log(counts / counts.sum()).astype(np.float32)


def baseline_step(
    batch: Batch, log_probabilities: Float[Array, "vocab"], majority_label: int
) -> Metrics:
    """Scores what needs no model on the held-out positions of one batch."""
    most_frequent = jnp.argmax(log_probabilities)
    return {
        "unigram_loss": Mean.of(-log_probabilities[batch.mask_labels], batch.mask_weights),
        "majority_token_accuracy": Mean.of(batch.mask_labels == most_frequent, batch.mask_weights),
        "nsp_majority_accuracy": Mean.of(batch.pair_labels == majority_label, batch.pair_weights),
    }


def baselines(
    batches: Iterable[Batch], *, token_counts: np.ndarray, majority_label: int
) -> dict[str, float]:
    """Returns unigram loss and the accuracies of the most frequent token and pair label."""
    log_probabilities = unigram_log_probabilities(token_counts)
    step = jax.jit(baseline_step)
    return merge([step(batch, log_probabilities, majority_label) for batch in batches])
