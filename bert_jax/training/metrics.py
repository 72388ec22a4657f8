"""Totals with their weights: averages of averages cannot happen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Float


@struct.dataclass
class Mean:
    """A sum and the weight it is to be divided by, once, at the end."""

    total: ArrayLike
    weight: ArrayLike

    @classmethod
    def of(cls, values: Array, weights: Array) -> Mean:
        """The weighted mean of an array, in float32."""
        weights = weights.astype(jnp.float32)
        return cls((values.astype(jnp.float32) * weights).sum(), weights.sum())

    def __add__(self, other: Mean) -> Mean:
        return Mean(jnp.add(self.total, other.total), jnp.add(self.weight, other.weight))

    def compute(self) -> Float[Array, ""]:
        """The mean; 0 where nothing was weighed."""
        return jnp.divide(self.total, jnp.maximum(self.weight, 1e-9))


def merge(steps: list[dict[str, Mean]]) -> dict[str, float]:
    """Merges metrics of several steps on the host, in float64, and divides once.

    A metric that nothing was weighed in is left out.
    """
    fetched = jax.device_get(steps)
    merged = {}
    for name in fetched[0]:
        total = sum(np.float64(step[name].total) for step in fetched)
        weight = sum(np.float64(step[name].weight) for step in fetched)
        if weight > 0:
            merged[name] = float(total / weight)
    return merged
