"""The pseudo-log-likelihood of a text: the log-probability of each token, given all others.

References:
  Salazar et al. 2020, Masked Language Model Scoring, https://arxiv.org/abs/1910.14659
"""

from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bert_jax.data.batch import Batch
from bert_jax.data.pairs import Pair
from bert_jax.models.bert import BertForPretraining, apply
from bert_jax.runs.inference import TextModel, as_batch, lay_out_batches


def pseudo_log_likelihoods(model: TextModel, pairs: Sequence[Pair]) -> Float[np.ndarray, "texts"]:
    """Returns for each text the sum over its tokens of log p(token | all other tokens), in nats.

    A text of n tokens is computed n times, each time with one token replaced by [MASK]. [CLS] and
    [SEP] are not scored. The sums are float64.
    """
    texts, places, labels = array("q"), array("i"), array("i")

    def mask_each() -> Iterator[Pair]:
        for number, (a, b, _) in enumerate(pairs):
            ids = [*a, *b]
            for place, label in enumerate(ids):
                masked = [*ids[:place], model.tokenizer.mask_id, *ids[place + 1 :]]
                texts.append(number)
                places.append(1 + place + (place >= len(a)))  # after [CLS], and [SEP] before B
                labels.append(label)
                yield Pair(masked[: len(a)], masked[len(a) :], 0)

    sums = np.zeros(len(pairs))
    for batch in lay_out_batches(model, mask_each()):
        rows, width = len(batch.layout.token_ids), int(batch.slots.max()) + 1
        width = 1 << (width - 1).bit_length()  # a power of two, for few shapes
        positions, of_labels = np.zeros((2, rows, width), np.int32)
        positions[batch.rows, batch.slots] = batch.starts + [places[i] for i in batch.numbers]
        of_labels[batch.rows, batch.slots] = [labels[i] for i in batch.numbers]
        inputs = as_batch(batch.layout, positions)._replace(mask_labels=of_labels)
        size = model.tokenizer.vocab_size
        found = np.asarray(_log_probabilities(model.model, model.params, inputs, size))
        np.add.at(sums, [texts[i] for i in batch.numbers], found[batch.rows, batch.slots])
    return sums


@partial(jax.jit, static_argnums=(0, 3))
def _log_probabilities(
    model: BertForPretraining, params: Any, batch: Batch, vocab_size: int
) -> Float[Array, "batch predictions"]:
    logits = apply(model, params, batch).token_logits[..., :vocab_size]
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(log_probabilities, batch.mask_labels[..., None], axis=-1)[..., 0]
