"""Statistics over seeds: intervals, differences, Holm's correction, and the power of a test.

Two points of a sweep with the same seed read the same batches in the same order, so their results
are not independent. Differences are therefore paired by seed.
"""

import math
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

CONFIDENCE = 0.95
POWER = 0.8
"""Probability with which `seeds_to_tell` seeds find a difference."""
MOST_SEEDS = 10_000
"""`seeds_to_tell` looks no further."""


class Estimate(NamedTuple):
    """A mean over seeds. The arrays lack the last axis of the values."""

    count: int
    """Number of seeds."""
    mean: np.ndarray
    """NaN without seeds."""
    deviation: np.ndarray
    """Sample standard deviation; NaN with one seed, like all fields below."""
    low: np.ndarray
    """Ends of the interval that contains the true mean with probability `CONFIDENCE`."""
    high: np.ndarray
    p_value: np.ndarray
    """Probability of a mean at least so far from 0 if the true mean is 0."""


def estimate(values: Float[np.ndarray, "... seeds"]) -> Estimate:
    """Returns mean, standard deviation, interval and p-value by Student's t.

    The values of the seeds are taken as normally distributed. Equal values, such as accuracies of
    few examples, have no t: their p-value is that of the sign test, 2 / 2^seeds.
    """
    from scipy.special import stdtr, stdtrit

    values = np.asarray(values, np.float64)
    count = values.shape[-1]
    mean = values.sum(-1) / (count or math.nan)
    if count < 2:
        return Estimate(count, mean, *[np.full_like(mean, math.nan)] * 4)
    deviation = values.std(-1, ddof=1)
    deviation = np.where(deviation <= 1e-9 * np.abs(mean), 0.0, deviation)  # 0.3 - 0.2 is not 0.1
    error = deviation / math.sqrt(count)
    half = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * stdtr(count - 1, -np.abs(mean) / error)
    p_value = np.where(error == 0, np.where(mean == 0, 1.0, 2.0 ** (1 - count)), p_value)
    return Estimate(count, mean, deviation, mean - half, mean + half, p_value)


def holm(p_values: Float[np.ndarray, "... tests"]) -> Float[np.ndarray, "... tests"]:
    """Returns adjusted p-values. Those below 0.05 hold together, with an error rate of 5 %.

    References:
      Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, axis=-1)
    weights = np.arange(p_values.shape[-1], 0, -1)
    scaled = np.take_along_axis(p_values, order, axis=-1) * weights
    adjusted = np.minimum(np.maximum.accumulate(scaled, axis=-1), 1.0)
    return np.take_along_axis(adjusted, np.argsort(order, axis=-1), axis=-1)


def power(
    difference: float, deviation: float, *, seeds: int, tests: int = 1, other_error: float = 0.0
) -> float:
    """Returns the probability that a t-test finds a true paired difference, with its sign.

    The test is two-sided, at the significance level 0.05 / `tests`. Holm's procedure finds at least
    as many differences. `other_error` is a standard error that more seeds do not reduce.
    """
    from scipy.special import nctdtr, stdtrit

    error = math.hypot(deviation / math.sqrt(seeds), other_error)
    if error == 0:  # as in `estimate`
        return float(difference != 0 and 2.0 ** (1 - seeds) < (1 - CONFIDENCE) / tests)
    shift = min(abs(difference) / error, 1e4)  # nctdtr knows no larger ones
    critical = stdtrit(seeds - 1, 1 - (1 - CONFIDENCE) / (2 * tests))
    return 1 - float(nctdtr(seeds - 1, shift, critical))


def seeds_to_tell(difference: float, deviation: float, **more: Any) -> int | None:
    """Returns the least number of seeds, 2 or more, with which `power` is at least `POWER`.

    All arguments are those of `power`. None stands for more than `MOST_SEEDS`.
    """
    found = bisect_left(
        range(MOST_SEEDS + 1), POWER, 2, key=lambda n: power(difference, deviation, seeds=n, **more)
    )
    return found if found <= MOST_SEEDS else None
