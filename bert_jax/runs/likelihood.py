"""The pseudo-log-likelihood of a text: the log-probability of each token, given all others.

References:
  Salazar et al. 2020, Masked Language Model Scoring, https://arxiv.org/abs/1910.14659
  Graves 2013, Generating Sequences With Recurrent Neural Networks, section 3.1 (bits per
    character), https://arxiv.org/abs/1308.0850
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bert_jax.data.batch import Batch
from bert_jax.data.pairs import Pair
from bert_jax.errors import DataError, require
from bert_jax.models.bert import BertForPretraining, apply
from bert_jax.runs.inference import TextModel, as_batch, lay_out_batches


def pseudo_log_likelihoods(model: TextModel, pairs: Sequence[Pair]) -> Float[np.ndarray, "texts"]:
    """Returns for each text the sum over its tokens of log p(token | all other tokens), in nats.

    A text of n tokens is computed as n rows, each with one token replaced by [MASK]. [CLS] and
    [SEP] are not scored. The sums are float64.
    """
    rows, texts, positions, labels = [], [], [], []
    for number, (a, b, _) in enumerate(pairs):
        ids = [*a, *b]
        for place, label in enumerate(ids):
            masked = [*ids[:place], model.tokenizer.mask_id, *ids[place + 1 :]]
            rows.append(Pair(masked[: len(a)], masked[len(a) :], 0))
            texts.append(number)
            positions.append(1 + place + (place >= len(a)))  # after [CLS], and [SEP] before B
            labels.append(label)
    sums = np.zeros(len(pairs))
    for numbers, layout in lay_out_batches(model, rows):
        slots = np.zeros((2, len(layout.token_ids), 1), np.int32)
        slots[:, : len(numbers), 0] = [[of[i] for i in numbers] for of in (positions, labels)]
        batch = as_batch(layout, slots[0])._replace(mask_labels=slots[1])
        size = model.tokenizer.vocab_size
        found = np.asarray(_log_probabilities(model.model, model.params, batch, size))
        np.add.at(sums, [texts[i] for i in numbers], found[: len(numbers)])
    return sums


def bits_per_character(
    log_likelihoods: Float[np.ndarray, "texts"], texts: Sequence[str | tuple[str, str]]
) -> float:
    """Returns -sum(log p) / (ln 2 * number of characters), over all texts together.

    Args:
      log_likelihoods: the log-likelihood of each text, in nats.
      texts: the texts and pairs. A character is a Unicode code point, also a space.

    Raises:
      DataError: the texts have no character.
    """
    count = sum(len(part) for text in texts for part in ([text] if isinstance(text, str) else text))
    require(count > 0, "texts", list(texts), "at least one character", error=DataError)
    return float(-log_likelihoods.sum() / (math.log(2) * count))


@partial(jax.jit, static_argnums=(0, 3))
def _log_probabilities(
    model: BertForPretraining, params: Any, batch: Batch, vocab_size: int
) -> Float[Array, "batch"]:
    logits = apply(model, params, batch).token_logits[..., :vocab_size]
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_probabilities, batch.mask_labels[..., None], axis=-1)[:, 0, 0]
