r"""Prints the difference between two fine-tunings on the same data, with an interval.

  python benchmarks/paired_difference.py --first=runs/sentiment --second=runs/sentiment_from_scratch
  python benchmarks/paired_difference.py --first=docs/runs/NAME.jsonl:pretrained \
    --second=docs/runs/NAME.jsonl:from_scratch --output=docs/runs/NAME.jsonl

--first and --second are each a workdir of `finetune`, or a directory with a workdir for each fold
of a cross-validation. FILE.jsonl:NAME names such runs in a record (benchmarks/record.py). If
--output is a record, the difference becomes a line of the record.

Two fine-tunings with the same seeds and no folds are paired by seed and by example: see
`bert_jax.statistics.examples.interval_over_examples`. Otherwise, the difference is the mean over
folds of the difference between the means over seeds, and Student's t gives its 95 % interval. The
variance between the differences of several folds includes the variance from seeds and examples.

Scores on dev are too high for both, because the checkpoints were chosen on dev. The folds of a
cross-validation share most of their training examples. No interval from a single cross-validation
can account for this (Bengio and Grandvalet 2004).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from record import (
    ACCEPTED,
    FORMAT_VERSION,
    Line,
    load_runs,
    outcomes_of,
    read_record,
    write_record,
)
from scipy.special import stdtrit

from bert_jax import command
from bert_jax.errors import ConfigError, DataError
from bert_jax.files import write_json
from bert_jax.statistics.examples import (
    MANY_SEEDS,
    RESAMPLES,
    Metric,
    Outcomes,
    interval_over_examples,
    mean_of_draw,
    paired_outcomes,
    percentiles,
)
from bert_jax.statistics.seeds import CONFIDENCE, estimate
from bert_jax.tasks.families.registry import FAMILIES

FLAGS = flags.FLAGS
SOURCE = ("config_hash", "checkpoint_sha256", "commit")

Pair = tuple[Sequence[Outcomes], Sequence[Outcomes]]
"""Outcomes of each seed of the first and of the second fine-tuning, on the same examples."""


def load_folds(source: str) -> dict[str, Line]:
    """Returns the line of a fine-tuning, or of each fold, by its place as in `load_runs`.

    Raises:
      DataError: a run is missing or is no fine-tuning, or the folds are not of one
        cross-validation.
    """
    folds = load_runs(source)
    for place, fold in folds.items():
        if "data_sha256" not in fold["result"]:
            raise DataError(f"{place} is not a fine-tuning; {ACCEPTED}")
    results = [fold["result"] for fold in folds.values()]
    for name in ("family", "metric", "checkpoint_sha256"):
        if len({result[name] for result in results}) > 1:
            raise DataError(f"the folds in {source} differ in {name}; {ACCEPTED}")
    if len({result["data_sha256"] for result in results}) < len(results):
        raise DataError(f"two folds in {source} are of the same data; {ACCEPTED}")
    return folds


def difference(first: str, second: str, *, method: str = "") -> Line:
    """Returns the difference of the main metric on dev and test, its interval and its sources.

    `method` is empty for the method that fits the seeds and folds, or the method of a record:
    percentile was the method of earlier records.

    Raises:
      DataError: a run or its outcomes are missing, or the two differ in data or metric.
    """
    ours, theirs = load_folds(first), load_folds(second)
    check_paired(first, ours, second, theirs)
    result = next(iter(ours.values()))["result"]
    metric = FAMILIES[result["family"]].metrics[result["metric"]]
    seeds = [[_finished(fold) for fold in folds.values()] for folds in (ours, theirs)]
    paired = len(ours) == 1 and seeds[0] == seeds[1]
    if not method:
        many = paired and len(seeds[0][0]) >= MANY_SEEDS
        method = "multi_bootstrap" if many else "student_t"
    splits = {}
    for split in result["summary"]:
        outcomes = [_outcomes(folds, split) for folds in (ours, theirs)]
        means = [_mean(folds, metric) for folds in outcomes]
        pairs = list(zip(*outcomes, strict=True))
        if method == "percentile":
            interval = percentile_interval(pairs, metric)
        elif not paired:
            interval = student_t_interval(pairs, metric)
        else:
            first_fold, second_fold = pairs[0]
            interval = interval_over_examples(*paired_outcomes(first_fold, second_fold, metric))
        splits[split] = {
            "examples": sum(len(seeds[0]) for seeds in outcomes[0]),
            "first": means[0],
            "second": means[1],
            "difference": means[0] - means[1],
            "interval": interval,
        }
    return {
        "format_version": FORMAT_VERSION,
        "kind": "difference",
        "metric": result["metric"],
        "confidence": CONFIDENCE,
        "method": method,
        "resamples": RESAMPLES,
        "first": {"name": _name(first), "runs": _sources(ours)},
        "second": {"name": _name(second), "runs": _sources(theirs)},
        "splits": splits,
    }


def check_paired(first: str, ours: dict[str, Line], second: str, theirs: dict[str, Line]) -> None:
    """Checks that two fine-tunings have the same folds.

    Raises:
      DataError: they differ in the number of folds, in data or in metric.
    """
    if len(ours) != len(theirs):
        raise DataError(
            f"there are {len(ours)} folds in {first}, {len(theirs)} in {second}; accepted: equally "
            "many"
        )
    for (here, fold), (there, other) in zip(ours.items(), theirs.items(), strict=True):
        for name in ("family", "metric", "data_sha256"):
            found = [str(line["result"][name])[:12] for line in (fold, other)]
            if found[0] != found[1]:
                raise DataError(
                    f"{here} has {name} {found[0]}, {there} has {found[1]}; accepted: equal values"
                )


def student_t_interval(folds: Sequence[Pair], metric: Metric) -> tuple[float, float]:
    """Returns the interval of the mean difference over folds, by Student's t.

    With a single fold, the half-width is the root of the summed squares of two half-widths: Welch's
    t for the variances between the seeds of the two fine-tunings, and a normal one for the variance
    over resamples of the examples, which are the same for both.

    Args:
      folds: outcomes of each fold; a single pair if there is no cross-validation.
      metric: function of the outcomes of one seed.

    References:
      Welch 1947, The generalization of Student's problem when several different population
      variances are involved.
    """
    if len(folds) > 1:
        differences = [_mean([ours], metric) - _mean([theirs], metric) for ours, theirs in folds]
        found = estimate(np.array(differences))
        return float(found.low), float(found.high)
    (sides,) = folds
    rng, count = np.random.default_rng(0), len(sides[0][0])
    values = [_values(outcomes, metric) for outcomes in sides]
    resampled = [
        [_values([one[draw] for one in outcomes], metric) for outcomes in sides]
        for draw in rng.integers(count, size=(RESAMPLES, count))
    ]
    of_examples = np.std(
        [np.mean(ours) - np.mean(theirs) for ours, theirs in resampled if ours and theirs]
    )
    several = [found for found in values if len(found) > 1]
    variances = np.array([np.var(found, ddof=1) / len(found) for found in several])
    of_seeds, freedom = variances.sum(), np.array([len(found) - 1 for found in several])
    freedom = of_seeds**2 / (variances**2 / freedom).sum() if of_seeds else 1.0
    student, normal = stdtrit([freedom, np.inf], (1 + CONFIDENCE) / 2)
    half = np.hypot(student * np.sqrt(of_seeds), normal * of_examples)
    difference = np.mean(values[0]) - np.mean(values[1])
    return float(difference - half), float(difference + half)


def percentile_interval(folds: Sequence[Pair], metric: Metric) -> tuple[float, float]:
    """Returns the interval of earlier records, a percentile bootstrap of folds, seeds and examples.

    It is too narrow for fewer than 20 folds or seeds. The arguments are as above.
    """
    rng = np.random.default_rng(0)

    def drawn_difference(ours: Sequence[Outcomes], theirs: Sequence[Outcomes]) -> float | None:
        examples = rng.integers(len(ours[0]), size=len(ours[0]))
        first, second = (mean_of_draw(one, examples, metric, rng) for one in (ours, theirs))
        return None if first is None or second is None else first - second

    values = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(folds), size=len(folds))
        differences = [drawn_difference(*folds[i]) for i in drawn]
        found = [value for value in differences if value is not None]
        values.append(float(np.mean(found)) if found else None)
    return percentiles(values)


def _mean(folds: Sequence[Sequence[Outcomes]], metric: Metric) -> float:
    return float(np.mean([np.mean(_values(seeds, metric)) for seeds in folds]))


def _values(seeds: Sequence[Outcomes], metric: Metric) -> list[float]:
    return [value for outcomes in seeds if (value := metric(outcomes)) is not None]


def _outcomes(folds: dict[str, Line], split: str) -> list[list[Outcomes]]:
    found = {place: outcomes_of(fold, split) for place, fold in folds.items()}
    for place, outcomes in found.items():
        if outcomes is None:
            raise DataError(
                f"{place} holds no outcomes; accepted: a workdir, or a record with outcomes"
            )
    return [outcomes for outcomes in found.values() if outcomes is not None]


def _sources(folds: dict[str, Line]) -> list[dict[str, Any]]:
    return [
        {name: result[name] for name in SOURCE} | {"seeds": len(_finished(fold))}
        for fold in folds.values()
        for result in [fold["result"]]
    ]


def _finished(fold: Line) -> list[int]:
    """Returns the seeds that did not diverge."""
    return [seed["seed"] for seed in fold["result"]["seeds"] if "dev" in seed]


def _name(source: str) -> str:
    """Returns the name that the runs of a source have in a record."""
    return source.partition(".jsonl:")[2] or Path(source).name


def write(file: Path, found: Line) -> None:
    """Writes a difference to a JSON file, or to a record in place of the one with its names."""
    if file.suffix != ".jsonl":
        write_json(file, found)
        return
    names = [found[side]["name"] for side in ("first", "second")]
    kept = [
        line
        for line in read_record(file)
        if line["kind"] != "difference" or [line[s]["name"] for s in ("first", "second")] != names
    ]
    write_record(file, [*kept, found])


def main() -> None:
    """Runs the command."""
    for name in ("first", "second"):
        if not FLAGS[name].value:
            raise ConfigError(f"--{name} is missing; {ACCEPTED}")
    found = difference(FLAGS.first, FLAGS.second)
    for split, row in found["splits"].items():
        low, high = row["interval"]
        print(
            f"{split} ({row['examples']:,}) {found['metric']}: "
            f"{row['first']:.4f} - {row['second']:.4f} = {row['difference']:+.4f}, "
            f"interval {low:+.4f} to {high:+.4f}"
        )
    if FLAGS.output:
        write(Path(FLAGS.output), found)


if __name__ == "__main__":
    flags.DEFINE_string("first", None, "Workdir, directory of folds, or FILE.jsonl:NAME.")
    flags.DEFINE_string("second", None, "Fine-tuning to compare with, in the form of --first.")
    flags.DEFINE_string("output", None, "JSON file to write, or record that gets another line.")
    command.run(main)
