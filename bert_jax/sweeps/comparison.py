"""Compares the points of a sweep with its first point, the base, metric by metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bert_jax.statistics.examples import Scored, example_error, for_other_examples, paired_outcomes
from bert_jax.statistics.seeds import (
    CONFIDENCE,
    MOST_SEEDS,
    POWER,
    Estimate,
    estimate,
    holm,
    seeds_to_tell,
)
from bert_jax.sweeps.grid import Point, describe

METRICS = {
    "mlm_loss": "unigram_loss",
    "mlm_accuracy": "unigram_loss",
    "nsp_accuracy": "nsp_majority_accuracy",
    "bits_per_character": "characters",
}
"""Metrics of a result, each with a number that depends on the held-out examples alone. If two
points differ in this number, their metrics are of different examples. A probe adds `probe_*`, and
an evaluation NAME/METRIC, whose number is NAME/NUMBER."""

Results = Mapping[str, Mapping[str, Any]]
"""`result.json` of the finished runs, by id."""
Scores = Mapping[str, Mapping[str, Scored]]
"""The outcomes of evaluations, by id and metric."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A metric of a point."""

    metric: str
    point: Point
    failed: int
    """Number of failed runs that lack the metric."""
    base_failed: int
    estimate: Estimate
    difference: Estimate
    """Point minus base, paired by seed. The base, and a point that is not comparable, have none."""
    cost: float
    """FLOPs of a run of the point, divided by those of the base."""
    p_value: float = math.nan
    """P-value of the difference, corrected by Holm over all comparisons of the sweep."""
    verdict: str = "base"
    """Or: better, worse, equal, cannot tell, not comparable."""
    seeds_to_tell: int | None = None
    """Number of seeds that find a difference of the measured size and deviation with probability
    `POWER`, if the verdict is `cannot tell`. None if there are more than `MOST_SEEDS`, or if fewer
    than two seeds were compared."""


def compare(
    points: Sequence[Point],
    results: Results,
    *,
    failed: Sequence[str] = (),
    outcomes: Scores | None = None,
) -> list[Row]:
    """Returns a row for each metric and point.

    `failed` has the ids of the failed runs. With `outcomes`, the interval of a difference is one
    for other examples, too.
    """
    found = {name for result in results.values() for name in result}
    more = (name for name in found if name.startswith("probe_") or "/" in name)
    metrics = [*METRICS, *sorted(name for name in more if not name.endswith("/characters"))]
    rows = [
        _row(metric, (point, points[0]), results, failed, outcomes or {})
        for metric in metrics
        if metric in found
        for point in points
    ]
    measured = [i for i, row in enumerate(rows) if not np.isnan(row.difference.p_value)]
    adjusted = holm(np.array([rows[i].difference.p_value for i in measured]))
    for i, p_value in zip(measured, adjusted.tolist(), strict=True):
        rows[i] = replace(rows[i], p_value=p_value)
    return [_judge(row, tests=len(measured)) if row.point.number else row for row in rows]


def _row(
    metric: str, sides: Sequence[Point], results: Results, failed: Sequence[str], outcomes: Scores
) -> Row:
    point, base = sides
    ours, theirs = (_by_seed(one, metric, results) for one in sides)
    seeds = [seed for seed in theirs if seed in ours]
    evaluation, slash, name = metric.rpartition("/")
    number = f"{evaluation}{slash}{METRICS.get(name, '')}"
    examples = [[*_by_seed(one, number, results).values()] for one in sides]
    # The sums behind the number depend a little on the size of the evaluation's batches.
    comparable = bool(np.allclose(examples[0][:1], examples[1][:1], rtol=1e-4, atol=0))
    ids = [{run.experiment.seed: run.id for run in one.runs} for one in sides]
    scored = [outcomes.get(by_seed[seed], {}).get(metric) for by_seed in ids for seed in seeds]
    known = [one for one in scored if one]
    comparable &= len({one.data_sha256 for one in known}) < 2
    compared = seeds if point.number and comparable else []
    difference = estimate(np.array([ours[seed] - theirs[seed] for seed in compared]))
    if compared and len(known) == len(scored):
        arrays, count = [one.outcomes for one in known], len(compared)
        paired = paired_outcomes(arrays[:count], arrays[count:], known[0].metric)
        difference = for_other_examples(difference, *paired)
    lost = [name for name in failed if metric not in results.get(name, {})]
    return Row(
        metric=metric,
        point=point,
        failed=sum(run.id in lost for run in point.runs),
        base_failed=sum(run.id in lost for run in base.runs),
        estimate=estimate(np.array(list(ours.values()))),
        difference=difference,
        cost=point.flops / base.flops,
        verdict="base" if comparable else "not comparable",
    )


def _by_seed(point: Point, name: str, results: Results) -> dict[int, float]:
    found = {run.experiment.seed: results.get(run.id, {}).get(name) for run in point.runs}
    return {
        seed: float(value)
        for seed, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _judge(row: Row, *, tests: int) -> Row:
    mean, deviation = float(row.difference.mean), float(row.difference.deviation)
    if row.verdict == "not comparable":
        return row
    if mean == deviation == 0:
        return replace(row, verdict="equal")
    if row.p_value < 1 - CONFIDENCE:
        better = (mean < 0) == is_better_if_lower(row.metric)
        return replace(row, verdict="better" if better else "worse")
    if row.difference.count < 2:
        return replace(row, verdict="cannot tell")
    error = example_error(row.difference)
    needed = seeds_to_tell(mean, deviation, tests=tests, other_error=error)
    return replace(row, verdict="cannot tell", seeds_to_tell=needed)


def is_better_if_lower(metric: str) -> bool:
    """Returns whether a lower value of the metric is better."""
    return metric.endswith(("loss", "bits_per_character"))


def statement(row: Row, decimals: int) -> str:
    """Returns a sentence about a point that is not the base. Differences have `decimals`."""
    point, seeds = row.point, f"{row.difference.count} seeds"
    point = f"point {point.number} ({describe(point.changes)})"
    numbers = (row.difference.mean, row.difference.low, row.difference.high)
    mean, low, high = (f"{number:+.{decimals}f}" for number in numbers)
    varies = row.difference.low < row.difference.high
    interval = f"95 % interval {low} to {high}" if varies else "the same for all seeds"
    measured = f"{mean}, {interval}, p {row.p_value:.2g}"
    if row.verdict in ("better", "worse"):
        said = f"{point} is {row.verdict} than the base at {seeds}: {measured}"
    elif row.verdict == "equal":
        said = f"{point} equals the base at {seeds}"
    elif row.verdict == "not comparable":
        said = f"{point} cannot be compared with the base: their held-out examples differ"
    elif row.estimate.count == 0:
        said = f"{point} has no run with this metric"
    elif row.difference.count < 2:
        said = f"cannot tell whether {point} differs: fewer than 2 seeds are in both"
    else:
        enough = f"{row.seeds_to_tell} seeds would"
        needed = enough if row.seeds_to_tell else f"even {MOST_SEEDS:,} seeds would not"
        said = (
            f"cannot tell at {seeds} whether {point} differs: {measured}. If the true difference "
            f"is {mean}, {needed} tell with probability {POWER}"
        )
    failed = f" {row.failed} of {len(row.point.runs)} seeds failed." if row.failed else ""
    failed += f" In the base, {row.base_failed} failed." if row.base_failed else ""
    equal = math.isclose(row.cost, 1, rel_tol=0.005)
    return f"{row.metric}: {said}.{failed}" + (
        "" if equal else f" A run costs {row.cost:.2f} times the FLOPs of the base."
    )
