r"""What a fine-tuning is better by than another, with its interval.

  python benchmarks/tuning_difference.py --first=runs/sentiment --second=runs/sentiment_from_scratch

Both are workdirs of bert_jax.finetune on the same data, or directories of as many, one a fold of a
cross-validation. The interval is a 95 % percentile bootstrap of the difference of means over seeds:
seeds of each, and the examples of both, are drawn anew.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from bert_jax import command
from bert_jax.errors import ConfigError, DataError
from bert_jax.files import write_json
from bert_jax.tasks.families import FAMILIES
from bert_jax.tasks.results import CONFIDENCE, RESAMPLES, bootstrap_interval

FLAGS = flags.FLAGS
COMMON = ("family", "metric", "data_sha256")
SOURCE = ("config_hash", "checkpoint_sha256", "commit")


def load_folds(workdir: Path) -> dict[Path, dict[str, Any]]:
    """Returns the `result.json` of a fine-tuning, or those of the folds in a directory, by name.

    Raises:
      DataError: there is none.
    """
    files = [workdir / "result.json"]
    if not files[0].is_file():
        files = sorted(workdir.glob("*/result.json"))
    if not files:
        raise DataError(
            f"{workdir / 'result.json'} is missing; accepted: a workdir of a finished "
            "bert_jax.finetune, or a directory with one for each fold"
        )
    return {file.parent: json.loads(file.read_text()) for file in files}


def difference(first: Path, second: Path) -> dict[str, Any]:
    """Returns the difference of the main metric on dev and test, its interval and what it is of.

    Raises:
      DataError: a result is missing, or they are of other data or another metric.
    """
    ours, theirs = load_folds(first), load_folds(second)
    if len(ours) != len(theirs):
        raise DataError(f"{first} has {len(ours)} folds, {second} {len(theirs)}; accepted: as many")
    for (here, fold), (there, other) in zip(ours.items(), theirs.items(), strict=True):
        for name in COMMON:
            found = [str(result[name])[:12] for result in (fold, other)]
            if found[0] != found[1]:
                raise DataError(f"{here} has {name} {found[0]}, {there} {found[1]}; accepted: one")
    (one, *_) = ours.values()
    metric = FAMILIES[one["family"]].metrics[one["metric"]]
    splits = {}
    for split in one["summary"]:
        outcomes = [_outcomes(folds, split) for folds in (ours, theirs)]
        means = [_mean(metric, seeds) for seeds in outcomes]
        splits[split] = {
            "examples": len(outcomes[0][0]),
            "first": means[0],
            "second": means[1],
            "difference": means[0] - means[1],
            "interval": bootstrap_interval(outcomes[0], metric, minus=outcomes[1]),
        }
    return {
        "metric": one["metric"],
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "first": _sources(ours),
        "second": _sources(theirs),
        "splits": splits,
    }


def _mean(metric: Callable[[np.ndarray], float | None], seeds: list[np.ndarray]) -> float:
    return float(np.mean([value for seed in seeds if (value := metric(seed)) is not None]))


def _sources(folds: dict[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: fold[name] for name in SOURCE} | {"seeds": len(fold["seeds"])}
        for fold in folds.values()
    ]


def _outcomes(folds: dict[Path, dict[str, Any]], split: str) -> list[np.ndarray]:
    """Of each seed, on the examples of all folds."""
    by_fold = [
        [
            np.load(workdir / f"seed-{seed['seed']}" / f"outcomes_{split}.npy")
            for seed in fold["seeds"]
            if split in seed
        ]
        for workdir, fold in folds.items()
    ]
    return [np.concatenate(seeds) for seeds in zip(*by_fold, strict=True)]


def main() -> None:
    """Runs the command."""
    for name in ("first", "second"):
        if not FLAGS[name].value:
            raise ConfigError(f"--{name} is missing; accepted: a workdir of bert_jax.finetune")
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
