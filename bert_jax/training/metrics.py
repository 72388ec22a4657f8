"""Means, stored as a total and a weight, so means of unequal batches merge correctly."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Float

PendingRow = Sequence[dict[str, tuple[float, float]]]
"""Total and weight of each metric of each step since the last row of metrics.jsonl. A step
that made no update has no metrics."""


@struct.dataclass
class Mean:
    """A mean as a weighted sum (`total`) and the sum of the weights, not yet divided."""

    total: ArrayLike
    weight: ArrayLike

    @classmethod
    def of(cls, values: Array, weights: Array) -> Mean:
        """Returns the weighted mean of an array, summed in float32."""
        weights = weights.astype(jnp.float32)
        return cls((values.astype(jnp.float32) * weights).sum(), weights.sum())

    def __add__(self, other: Mean) -> Mean:
        return Mean(jnp.add(self.total, other.total), jnp.add(self.weight, other.weight))

    def compute(self) -> Float[Array, ""]:
        """Returns the mean, or 0 if the weight is 0."""
        return jnp.divide(self.total, jnp.maximum(self.weight, 1e-9))


def merge(steps: list[dict[str, Mean]]) -> dict[str, float]:
    """Returns the weighted mean of each metric over several steps, computed on the host in float64.

    The result leaves out a metric whose weight is 0. All steps have the same metrics.
    """
    fetched = jax.device_get(steps)
    merged = {}
    for name in fetched[0] if fetched else ():
        total = sum(np.float64(step[name].total) for step in fetched)
        weight = sum(np.float64(step[name].weight) for step in fetched)
        if weight > 0:
            merged[name] = float(total / weight)
    return merged
