"""Writes the page of a report: one HTML file that needs no other file and no network."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bert_jax.errors import ConfigError, needing, require
from bert_jax.statistics.seeds import Estimate
from bert_jax.sweeps.comparison import Row, is_better_if_lower, statement
from bert_jax.sweeps.gather import AXES, Gathered, curves_of
from bert_jax.sweeps.grid import Point, describe
from bert_jax.sweeps.table import NOTES, decimals_of, metric_columns

with needing("a page", "audit", error=ConfigError):
    from bert_jax.audit.template import open_templates

FIRST_METRICS = ("eval/mlm_loss", "train/mlm_loss", "eval/loss", "train/loss", "eval/mlm_accuracy")
"""The metrics that the list of curves begins with."""


def render(gathered: Gathered, *, title: str) -> str:
    """Returns the page. The same runs give the same text. `verify` can make it again.

    Raises:
      ConfigError: two runs have the same config and seed.
    """
    for point in gathered.points:
        seeds = [run.experiment.seed for run in point.runs]
        accepted = f"each seed once; the runs are {', '.join(run.id for run in point.runs)}"
        require(len({*seeds}) == len(seeds), f"seeds of {describe_changes(point)}", seeds, accepted)
    environment = open_templates(Path(__file__).parent)
    environment.filters |= {"changes": describe_changes, "amount": "{:,.3g}".format}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("page.html").render(
        title=title,
        gathered=gathered,
        metrics=[_metric(list(rows)) for _, rows in groupby(gathered.rows, lambda r: r.metric)],
        notes=NOTES,
        seconds=sum(result.get("seconds", 0.0) for result in gathered.results.values()),
        data=_curves(gathered) | gathered.source | {"title": title},
    )


def describe_changes(point: Point) -> str:
    """Returns the fields in which a point differs from the base, or all fields of the base."""
    if point.number:
        return describe(point.changes)
    return f"base ({describe(point.fields)})" if point.fields else "base"


def _metric(rows: list[Row]) -> dict[str, Any]:
    """Returns the statements, the table and the plotted intervals of a metric."""
    decimals = decimals_of(rows)
    columns = metric_columns(rows)
    return {
        "name": rows[0].metric,
        "lower": is_better_if_lower(rows[0].metric),
        "statements": [
            (row.verdict, statement(row, decimals).removeprefix(f"{row.metric}: "))
            for row in rows[1:]
        ],
        "columns": list(columns),
        "lines": list(zip(*columns.values(), strict=True)),
        "intervals": _intervals(rows),
    }


def _intervals(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns each point's difference and its interval, as percentages of a common axis.

    If no difference has an interval, the means of the points are plotted. Empty without intervals.
    """
    differences = any(row.difference.count > 1 for row in rows)
    estimates: list[Estimate] = [r.difference if differences else r.estimate for r in rows]
    known = [(row, e) for row, e in zip(rows, estimates, strict=True) if e.count > 1]
    ends = [float(end) for _, e in known for end in (e.low, e.high)] + [0.0] * differences
    if not ends or max(ends) == min(ends):
        return {}
    low, high = min(ends), max(ends)

    def place(value: Any) -> float:
        return round(4 + 92 * (float(value) - low) / (high - low), 2)

    form = f"{'+' if differences else ''}.{decimals_of(rows)}f"
    return {
        "kind": "difference from the base" if differences else "mean",
        "ends": [(place(end), f"{end:{form}}") for end in (low, high)],
        "zero": place(0) if differences else None,
        "points": [
            {
                "point": row.point,
                "verdict": row.verdict,
                "mean": place(e.mean),
                "low": place(e.low),
                "high": place(e.high),
                "text": f"{e.mean:{form}}, {e.low:{form}} to {e.high:{form}}",
            }
            for row, e in known
        ],
    }


def _curves(gathered: Gathered) -> dict[str, Any]:
    """Returns what the page's script draws."""
    points = [
        {
            "name": f"{point.number}: {describe_changes(point)}",
            "fields": {path: str(value) for path, value in point.fields.items()},
            "runs": [
                {
                    "name": f"{run.id}, seed {run.experiment.seed}",
                    "columns": curves_of(gathered.directories[run.id], run.experiment),
                }
                for run in point.runs
            ],
        }
        for point in gathered.points
    ]
    found = {name for point in points for run in point["runs"] for name in run["columns"]}
    first = [name for name in FIRST_METRICS if name in found]
    others = sorted(found - set(first) - set(AXES))
    return {"axes": AXES, "metrics": [*first, *others], "points": points}
