"""Recomputes every interval of records from the outcomes that the records hold.

  python benchmarks/intervals.py docs/runs/*.jsonl

Prints a line for each interval. The exit status is 2 if a recomputed value differs from the record.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lee_similarity
import numpy as np
import paired_difference
from absl import flags
from record import Line, outcomes_of, read_record, unpack

from bert_jax import command
from bert_jax.config import paths
from bert_jax.errors import ConfigError, DataError
from bert_jax.finetuning import results
from bert_jax.statistics.examples import Metric, Outcomes, multi_bootstrap, percentiles
from bert_jax.tasks.families.registry import FAMILIES

FLAGS = flags.FLAGS
NOT_KEPT = "outcomes not kept; the interval cannot be recomputed"


class Interval(NamedTuple):
    """A figure of a record with its interval: value, low end, high end."""

    place: str
    recorded: list[float]
    recomputed: list[float] | None
    """None if the record holds no outcomes."""

    @property
    def same(self) -> bool:
        """Whether the recomputed numbers are the recorded numbers, up to rounding."""
        return self.recomputed is not None and np.allclose(
            self.recorded, self.recomputed, rtol=0, atol=1e-9
        )


def intervals_of(file: Path) -> Iterator[Interval]:
    """Yields the intervals of a record.

    Raises:
      DataError: the file is not a record.
    """
    for line in read_record(file):
        match line["kind"]:
            case "run":
                yield from _of_run(file, line)
            case "difference":
                yield from _of_difference(file, line)
            case "similarity":
                yield from _of_similarity(file, line)


def _of_run(file: Path, run: Line) -> Iterator[Interval]:
    result = run["result"]
    for split, summary in result.get("summary", {}).items():
        metric, outcomes, recomputed = result["metric"], outcomes_of(run, split), None
        if outcomes is not None:
            metrics = FAMILIES[result["family"]].metrics
            found = results.summarize(outcomes, metrics, metric)[metric]
            if "method" not in summary[metric]:  # records made before intervals by Student's t
                found["interval"] = bootstrap_interval(outcomes, metrics[metric])
            recomputed = _numbers(found, "mean")
        place = f"{file}:{run['name']} {split} {metric}"
        yield Interval(place, _numbers(summary[metric], "mean"), recomputed)


def bootstrap_interval(outcomes: Sequence[Outcomes], metric: Metric) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a metric's mean over seeds.

    With few seeds, such intervals are too narrow. Many records have them.
    """
    return percentiles([*multi_bootstrap(outcomes, metric, np.random.default_rng(0))])


def _of_difference(file: Path, line: Line) -> Iterator[Interval]:
    first, second = (f"{file}:{line[side]['name']}" for side in ("first", "second"))
    runs = paired_difference.load_folds(first) | paired_difference.load_folds(second)
    found = None
    if all("outcomes" in run for run in runs.values()):
        method = line.get("method", "percentile")  # absent before intervals by Student's t
        found = paired_difference.difference(first, second, method=method)["splits"]
    for split, row in line["splits"].items():
        place = f"{first} - {line['second']['name']} {split} {line['metric']}"
        recomputed = None if found is None else _numbers(found[split], "difference")
        yield Interval(place, _numbers(row, "difference"), recomputed)


def _of_similarity(file: Path, line: Line) -> Iterator[Interval]:
    for name, model in line["models"].items():
        for pooling in lee_similarity.POOLINGS:
            score, recomputed = model[pooling], None
            if "cosines" in score:
                lee = lee_similarity.read(lee_similarity.fetch(paths.cache_directory() / "assets"))
                cosines = lee_similarity.symmetric(unpack(score["cosines"]))
                found = lee_similarity.score(cosines, lee.ratings)
                recomputed = _numbers(found, "spearman")
            yield Interval(f"{file} {name} {pooling}", _numbers(score, "spearman"), recomputed)


def _numbers(row: dict[str, Any], value: str) -> list[float]:
    return [row[value], *row["interval"]]


def _text(numbers: list[float]) -> str:
    return "{:.4f}, {:.4f} to {:.4f}".format(*numbers)


def main(*files: str) -> None:
    """Runs the command."""
    if not files:
        raise ConfigError("no record is given; accepted: files such as docs/runs/*.jsonl")
    found = [interval for file in files for interval in intervals_of(Path(file))]
    for one in found:
        recomputed = NOT_KEPT if one.recomputed is None else f"recomputed {_text(one.recomputed)}"
        print(f"{one.place}: {_text(one.recorded)}; {recomputed}")
    kept = [one for one in found if one.recomputed is not None]
    print(f"{len(found)} intervals; {len(kept)} recomputed, {len(found) - len(kept)} not kept")
    wrong = [one for one in kept if not one.same]
    if wrong:
        raise DataError(
            f"{wrong[0].place} has {_text(wrong[0].recorded)}, its outcomes give "
            f"{_text(wrong[0].recomputed or [])}; {len(wrong)} intervals differ in all; accepted: "
            "the values that the outcomes give"
        )


if __name__ == "__main__":
    command.run(main, operands=True)
