"""FLOPs of the matrix products of an update, and the peak FLOPs of devices.

A multiply-add counts 2 FLOPs, and the backward pass counts twice the forward pass. Embedding
lookups, optimizer, recomputation and padding do not count. Attention counts within each pair.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.models.config import BertConfig

PEAK_FLOPS = {  # dense bfloat16, per second and chip, from the vendors' data sheets
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def update_flops(config: BertConfig, *, pair_lengths: Sequence[int], predictions: int) -> float:
    """Returns the FLOPs of the forward and backward pass over pairs of these lengths.

    Args:
      config: the model's configuration.
      pair_lengths: number of tokens of each pair, with [CLS] and [SEP].
      predictions: number of masked words of all pairs.
    """
    hidden, mlp = config.hidden_size, config.feed_forward_size
    tokens = sum(pair_lengths)
    projections = tokens * 2 * (4 * hidden**2 + 2 * hidden * mlp)
    attention = 4 * hidden * sum(length**2 for length in pair_lengths)
    encoder = config.num_layers * (projections + attention)
    masked_token_head = 2 * predictions * (hidden**2 + hidden * config.padded_vocab_size)
    next_sentence_head = 2 * len(pair_lengths) * (hidden**2 + 2 * hidden)
    return 3.0 * (encoder + masked_token_head + next_sentence_head)


def known_peak(device: Any) -> float | None:
    """Returns the FLOPs per second of a device by its data sheet, None if it is not listed."""
    kinds = [kind for kind in PEAK_FLOPS if device.device_kind.startswith(kind)]
    return PEAK_FLOPS[max(kinds, key=len)] if kinds else None


def measured_peak(*, dtype: str, size: int = 1024, rounds: int = 10) -> float:
    """Returns the FLOPs per second of the fastest of `rounds` matrix products on one device."""
    x = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    multiply(x, x).block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
