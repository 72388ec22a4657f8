r"""What a fine-tuning is better by than another, with its interval.

  python benchmarks/tuning_difference.py --first=runs/sentiment --second=runs/sentiment_from_scratch

Both are workdirs of bert_jax.finetune on the same data, or directories of as many, one a fold of a
cross-validation. The interval is a 95 % percentile bootstrap of the mean over folds of the
difference of means over seeds: folds are drawn anew, of each its seeds, and the examples of both.

What dev says is too good, of both: it chose their checkpoints. Folds share most of their training
examples, which no interval of a single cross-validation can account for (Bengio and Grandvalet
2004).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from bert_jax import command
from bert_jax.errors import ConfigError, DataError
from bert_jax.files import write_json
from bert_jax.tasks.families.family import Outcomes
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.results import CONFIDENCE, RESAMPLES, mean_of_draw, percentiles

FLAGS = flags.FLAGS
ACCEPTED = (
    "accepted: a workdir of a finished bert_jax.finetune, or a directory of one for each fold"
)
SOURCE = ("config_hash", "checkpoint_sha256", "commit")

Metric = Callable[[Outcomes], float | None]
Pair = tuple[Sequence[Outcomes], Sequence[Outcomes]]
"""Outcomes of each seed of the first and of the second fine-tuning, on the same examples."""


def load_folds(directory: Path) -> dict[Path, dict[str, Any]]:
    """Returns the `result.json` of a fine-tuning, or those of the folds in a directory, by workdir.

    Raises:
      DataError: there is none, one is of no fine-tuning, or they are not of one cross-validation.
    """
    files = [directory / "result.json"]
    if not files[0].is_file():
        files = sorted(directory.glob("*/result.json"))
    if not files:
        raise DataError(f"{directory / 'result.json'} is missing; {ACCEPTED}")
    folds = {file.parent: _load_result(file) for file in files}
    for name in ("family", "metric", "checkpoint_sha256"):
        if len({fold[name] for fold in folds.values()}) > 1:
            raise DataError(f"the folds in {directory} differ in {name}; {ACCEPTED}")
    if len({fold["data_sha256"] for fold in folds.values()}) < len(folds):
        raise DataError(f"two folds in {directory} are of the same data; {ACCEPTED}")
    return folds


def _load_result(file: Path) -> dict[str, Any]:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON; {ACCEPTED}") from error
    if "data_sha256" not in result:
        raise DataError(f"{file} is not that of a fine-tuning; {ACCEPTED}")
    return result


def difference(first: Path, second: Path) -> dict[str, Any]:
    """Returns the difference of the main metric on dev and test, its interval and what it is of.

    Raises:
      DataError: a result is missing, or they are of other data or another metric.
    """
    ours, theirs = load_folds(first), load_folds(second)
    if len(ours) != len(theirs):
        raise DataError(
            f"there are {len(ours)} folds in {first}, {len(theirs)} in {second}; accepted: as many"
        )
    for (here, fold), (there, other) in zip(ours.items(), theirs.items(), strict=True):
        for name in ("family", "metric", "data_sha256"):
            found = [str(result[name])[:12] for result in (fold, other)]
            if found[0] != found[1]:
                raise DataError(f"{here} has {name} {found[0]}, {there} {found[1]}; accepted: one")
    one = next(iter(ours.values()))
    metric = FAMILIES[one["family"]].metrics[one["metric"]]
    splits = {}
    for split in one["summary"]:
        outcomes = [
            [_outcomes(workdir, fold, split) for workdir, fold in folds.items()]
            for folds in (ours, theirs)
        ]
        means = [_mean(folds, metric) for folds in outcomes]
        pairs = list(zip(*outcomes, strict=True))
        splits[split] = {
            "examples": sum(len(seeds[0]) for seeds in outcomes[0]),
            "first": means[0],
            "second": means[1],
            "difference": means[0] - means[1],
            "interval": interval_of_difference(pairs, metric),
        }
    return {
        "metric": one["metric"],
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "first": _sources(ours),
        "second": _sources(theirs),
        "splits": splits,
    }


def interval_of_difference(
    folds: Sequence[Pair], metric: Metric, *, seed: int = 0
) -> tuple[float, float]:
    """Returns the percentile interval of the mean of the folds' differences.

    Args:
      folds: one, unless it is a cross-validation.
      metric: of the outcomes of one seed.
      seed: of the draws.
    """
    rng = np.random.default_rng(seed)

    def drawn_difference(ours: Sequence[Outcomes], theirs: Sequence[Outcomes]) -> float | None:
        examples = rng.integers(len(ours[0]), size=len(ours[0]))
        first, second = (mean_of_draw(one, examples, metric, rng) for one in (ours, theirs))
        return None if first is None or second is None else first - second

    values = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(folds), size=len(folds))
        differences = [drawn_difference(*folds[i]) for i in drawn]
        found = [one for one in differences if one is not None]
        values.append(float(np.mean(found)) if found else None)
    return percentiles(values)


def _mean(folds: Sequence[Sequence[Outcomes]], metric: Metric) -> float:
    means = [
        np.mean([value for outcomes in seeds if (value := metric(outcomes)) is not None])
        for seeds in folds
    ]
    return float(np.mean(means))


def _outcomes(workdir: Path, result: dict[str, Any], split: str) -> list[Outcomes]:
    return [
        np.load(workdir / f"seed-{seed['seed']}" / f"outcomes_{split}.npy")
        for seed in result["seeds"]
        if split in seed
    ]


def _sources(folds: dict[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: fold[name] for name in SOURCE}
        | {"seeds": sum("dev" in one for one in fold["seeds"])}
        for fold in folds.values()
    ]


def main() -> None:
    """Runs the command."""
    for name in ("first", "second"):
        if not FLAGS[name].value:
            raise ConfigError(f"--{name} is missing; {ACCEPTED}")
    found = difference(Path(FLAGS.first), Path(FLAGS.second))
    for split, one in found["splits"].items():
        low, high = one["interval"]
        print(
            f"{split} ({one['examples']:,}) {found['metric']}: "
            f"{one['first']:.4f} - {one['second']:.4f} = {one['difference']:+.4f}, "
            f"interval {low:+.4f} to {high:+.4f}"
        )
    if FLAGS.output:
        write_json(Path(FLAGS.output), found)


if __name__ == "__main__":
    flags.DEFINE_string("first", None, "Workdir of a fine-tuning, or a directory of folds.")
    flags.DEFINE_string("second", None, "Workdir of the one it is compared with.")
    flags.DEFINE_string("output", None, "File for the same as JSON.")
    command.run(main)
