"""The held-out evaluation, and baselines on the same masked positions."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bert_jax.data.batch import Batch
from bert_jax.data.passport import load_passport, load_token_counts, majority_pair_label
from bert_jax.training.metrics import Mean, merge
from bert_jax.training.step import Metrics


def evaluate(
    step: Callable[[Any, Batch], Metrics], params: Any, batches: Iterable[Batch]
) -> dict[str, float]:
    """Returns loss, accuracies and perplexity, each computed from totals over all batches.

    `loss` is mlm_loss (the mean over masked words) + nsp_loss, even if `mlm_reduction` is sum.
    """
    row = merge([step(params, batch) for batch in batches])
    row["loss"] = row["mlm_loss"] + row.get("nsp_loss", 0.0)
    row["perplexity"] = float(np.exp(row["mlm_loss"]))
    return row


def unigram_log_probabilities(token_counts: np.ndarray) -> Float[np.ndarray, "vocab"]:
    """Returns float32 log probabilities of the tokens from their counts, with add-one smoothing."""
    counts = token_counts.astype(np.float64) + 1
    return np.log(counts / counts.sum()).astype(np.float32)


def baseline_step(
    batch: Batch, log_probabilities: Float[Array, "vocab"], majority_label: int
) -> Metrics:
    """Scores baselines, which need no model, on the masked words and the pairs of a batch."""
    most_frequent = jnp.argmax(log_probabilities)
    return {
        "unigram_loss": Mean.of(-log_probabilities[batch.mask_labels], batch.mask_weights),
        "majority_token_accuracy": Mean.of(batch.mask_labels == most_frequent, batch.mask_weights),
        "nsp_majority_accuracy": Mean.of(batch.pair_labels == majority_label, batch.pair_weights),
    }


def baselines(batches: Iterable[Batch], directory: str) -> dict[str, float]:
    """Returns unigram loss, and accuracies of guessing the most frequent token and pair label.

    Frequencies are counted in the training records of `directory`.
    """
    log_probabilities = unigram_log_probabilities(load_token_counts(directory))
    majority_label = majority_pair_label(load_passport(directory))
    step = jax.jit(baseline_step)
    return merge([step(batch, log_probabilities, majority_label) for batch in batches])
