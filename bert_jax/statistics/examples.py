"""Intervals over seeds and examples, from the outcomes of each seed on the same examples."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.statistics.seeds import CONFIDENCE, Estimate

RESAMPLES = 1000
MANY_SEEDS = 50
"""With fewer seeds, a percentile bootstrap over seeds is too narrow. With 20, the 95 % interval of
normal values contains the mean in 92.9 % of cases, with 50 in 94.2 %."""

Outcomes = np.ndarray
"""[examples, ...]: the outcomes of one seed, from which a metric is computed."""
Metric = Callable[[Outcomes], float | None]


class Scored(NamedTuple):
    """The outcomes of the examples from which a metric of a run was computed."""

    outcomes: Outcomes
    metric: Metric
    data_sha256: str
    """Runs with the same hash have the same examples in the same order."""


def paired_outcomes(
    first: Sequence[Outcomes], second: Sequence[Outcomes], metric: Metric
) -> tuple[list[Outcomes], Metric]:
    """Returns outcomes [examples, 2, ...] and the metric of their difference.

    Both are arguments of `interval_over_examples`.
    Entry i of `first` and of `second` are of the same seed, and the examples have the same order.
    """

    def difference(outcomes: Outcomes) -> float | None:
        ours, theirs = metric(outcomes[:, 0]), metric(outcomes[:, 1])
        return None if ours is None or theirs is None else ours - theirs

    return [np.stack(pair, axis=1) for pair in zip(first, second, strict=True)], difference


def interval_over_examples(outcomes: Sequence[Outcomes], metric: Metric) -> tuple[float, float]:
    """Returns the interval of a metric's mean over seeds, for other seeds and other examples.

    With `MANY_SEEDS` or more, the interval is a percentile Multi-Bootstrap. With fewer, its
    half-width is the root of the summed squares of two half-widths: Student's t for the variance
    between seeds, and a normal one for the variance over resamples of the examples, which are the
    same for all seeds. With one seed, only the examples count.

    `outcomes` has an array for each seed, with the examples in the same order. `metric` takes one.

    References:
      Sellam et al. 2021, The MultiBERTs (arXiv 2106.16163).
      Zou and Donner 2008, Construction of confidence limits about effect measures.
    """
    from scipy.special import stdtrit

    rng, count = np.random.default_rng(0), len(outcomes[0])
    if len(outcomes) >= MANY_SEEDS:
        return percentiles([*multi_bootstrap(outcomes, metric, rng)])
    values, *resampled = (
        [value for one in outcomes if (value := metric(one[draw])) is not None]
        for draw in (np.arange(count), *rng.integers(count, size=(RESAMPLES, count)))
    )
    of_seeds = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    of_examples = np.std([np.mean(drawn) for drawn in resampled if drawn])
    student, normal = stdtrit([max(len(values) - 1, 1), np.inf], (1 + CONFIDENCE) / 2)
    half = np.hypot(student * of_seeds, normal * of_examples)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def for_other_examples(
    over_seeds: Estimate, outcomes: Sequence[Outcomes], metric: Metric
) -> Estimate:
    """Returns an estimate over seeds with an interval for other examples, too.

    The p-value is that of Student's t with the error that gives this width. With fewer than
    `MANY_SEEDS`, it is thus below 0.05 exactly if the interval does not contain 0. One seed has an
    interval, but no p-value.
    `outcomes` and `metric` are those of `interval_over_examples`, for the seeds of `over_seeds`.
    """
    from scipy.special import stdtr, stdtrit

    low, high = interval_over_examples(outcomes, metric)
    p_value, freedom = over_seeds.p_value, over_seeds.count - 1
    if high > low:
        error = (high - low) / 2 / stdtrit(freedom, (1 + CONFIDENCE) / 2)
        p_value = 2 * stdtr(freedom, -abs(over_seeds.mean) / error)
    return over_seeds._replace(low=np.array(low), high=np.array(high), p_value=p_value)


def example_error(estimate: Estimate) -> float:
    """Returns the standard error by which `for_other_examples` widened an interval, or 0."""
    from scipy.special import stdtrit

    student, normal = stdtrit([estimate.count - 1, np.inf], (1 + CONFIDENCE) / 2)
    half, of_seeds = (estimate.high - estimate.low) / 2, estimate.deviation / estimate.count**0.5
    return float(np.sqrt(max(half**2 - (student * of_seeds) ** 2, 0.0)) / normal)


def multi_bootstrap(
    outcomes: Sequence[Outcomes], metric: Metric, rng: np.random.Generator
) -> Iterator[float | None]:
    """Yields the metric's mean over seeds for `RESAMPLES` draws of examples and of seeds."""
    count = len(outcomes[0])
    for _ in range(RESAMPLES):
        yield mean_of_draw(outcomes, rng.integers(count, size=count), metric, rng)


def mean_of_draw(
    outcomes: Sequence[Outcomes], examples: np.ndarray, metric: Metric, rng: np.random.Generator
) -> float | None:
    """Returns a metric's mean over seeds drawn with replacement; None if no seed has the metric."""
    seeds = rng.integers(len(outcomes), size=len(outcomes)).tolist()
    values = {i: metric(outcomes[i][examples]) for i in set(seeds)}
    drawn = [value for i in seeds if (value := values[i]) is not None]
    return float(np.mean(drawn)) if drawn else None


def percentiles(values: Sequence[float | None]) -> tuple[float, float]:
    """Returns the ends of the interval that holds the middle 95 % of the values."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile([value for value in values if value is not None], [tail, 100 - tail])
    return float(low), float(high)
