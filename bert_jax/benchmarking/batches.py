"""A batch of random token ids, so that an update can be timed without prepared data; its FLOPs."""

from typing import Any

import numpy as np

from bert_jax.data.batch import ONE_HOST, Batch, Host
from bert_jax.models.flops import update_flops


def pair_lengths(experiment: Any) -> list[int]:
    """Returns the lengths in tokens of the pairs that fill a row."""
    length, pairs = experiment.data.sequence_length, experiment.data.pairs_per_row
    return [length * (n + 1) // pairs - length * n // pairs for n in range(pairs)]


def random_batch(experiment: Any, *, host: Host = ONE_HOST) -> Batch:
    """Returns a host's rows of a random batch. `data.masking` decides the number of masks."""
    data, vocab_size = experiment.data, experiment.model.vocab_size
    rows, length = len(host.rows(data.batch_size)), data.sequence_length
    width = data.masking.max_predictions
    count = min(width, round(length * data.masking.rate))
    rng = np.random.default_rng(host.parts[0])
    lengths = pair_lengths(experiment)
    starts = np.cumsum([0, *lengths[:-1]])
    within = np.arange(length) - np.repeat(starts, lengths)

    def each_row(values: np.ndarray) -> np.ndarray:
        return np.tile(values.astype(np.int32), (rows, 1))

    positions = np.zeros((rows, width), np.int32)
    positions[:, :count] = np.sort(rng.random((rows, length - 1)).argsort(1)[:, :count] + 1)
    weights = (np.arange(width) < count).astype(np.float32)
    return Batch(
        token_ids=rng.integers(0, vocab_size, (rows, length), np.int32),
        segment_ids=each_row(within >= np.repeat(lengths, lengths) // 2),
        pack_ids=each_row(np.repeat(np.arange(len(lengths)), lengths) + 1),
        mask_positions=positions,
        mask_labels=rng.integers(0, vocab_size, (rows, width), np.int32),
        mask_weights=np.tile(weights, (rows, 1)),
        cls_positions=each_row(starts),
        pair_labels=rng.integers(0, 2, (rows, len(lengths)), np.int32),
        pair_weights=np.ones((rows, len(lengths)), np.float32),
    )


def model_flops(experiment: Any) -> float:
    """Returns the FLOPs of the matrix products of an update on `random_batch`."""
    data = experiment.data
    return update_flops(
        experiment.model,
        pair_lengths=pair_lengths(experiment) * data.batch_size,
        predictions=int(random_batch(experiment).mask_weights.sum()),
    )
