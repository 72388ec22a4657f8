"""The percentile bootstrap of a metric's mean over seeds, by which many records have intervals.

With few seeds, its intervals are too narrow. Therefore `bert_jax.finetuning.results` uses Student's
t.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bert_jax.finetuning.results import CONFIDENCE, RESAMPLES
from bert_jax.tasks.families.family import Outcomes


def bootstrap_interval(
    outcomes: Sequence[Outcomes], metric: Callable[[Outcomes], float | None]
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a metric's mean over seeds.

    Each resample draws seeds and examples with replacement. All seeds use the same drawn examples.
    `outcomes` has one array for each seed, with the examples in the same order.

    References:
      Efron and Tibshirani 1993, chapter 13.
    """
    rng = np.random.default_rng(0)
    count = len(outcomes[0])
    draws = (rng.integers(count, size=count) for _ in range(RESAMPLES))
    return percentiles([mean_of_draw(outcomes, draw, metric, rng) for draw in draws])


def mean_of_draw(
    outcomes: Sequence[Outcomes],
    examples: np.ndarray,
    metric: Callable[[Outcomes], float | None],
    rng: np.random.Generator,
) -> float | None:
    """Returns a metric's mean over seeds drawn with replacement; None if no seed has the metric."""
    seeds = rng.integers(len(outcomes), size=len(outcomes)).tolist()
    values = {i: metric(outcomes[i][examples]) for i in set(seeds)}
    drawn = [value for i in seeds if (value := values[i]) is not None]
    return float(np.mean(drawn)) if drawn else None


def percentiles(values: Sequence[float | None]) -> tuple[float, float]:
    """Returns the ends of the interval that holds the middle 95 % of the values."""
    tail = 50 * (1 - CONFIDENCE)
    found = [value for value in values if value is not None]
    low, high = np.percentile(found, [tail, 100 - tail])
    return float(low), float(high)
