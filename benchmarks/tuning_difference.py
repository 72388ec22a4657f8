r"""What a fine-tuning is better by than another, with its interval.

  python benchmarks/tuning_difference.py --first=runs/sentiment --second=runs/sentiment_from_scratch

Both are workdirs of bert_jax.finetune on the same data. The interval is a 95 % percentile bootstrap
of the difference of means over seeds: seeds of each, and the examples of both, are drawn anew.
"""

import json
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


def load_result(workdir: Path) -> dict[str, Any]:
    """Returns the `result.json` of a fine-tuning.

    Raises:
      DataError: there is none.
    """
    file = workdir / "result.json"
    if not file.is_file():
        raise DataError(f"{file} is missing; accepted: a workdir of a finished bert_jax.finetune")
    return json.loads(file.read_text())


def difference(first: Path, second: Path) -> dict[str, Any]:
    """Returns the difference of the main metric on dev and test, its interval and what it is of.

    Raises:
      DataError: a result is missing, or they are of other data or another metric.
    """
    ours, theirs = load_result(first), load_result(second)
    for name in COMMON:
        found = [str(result[name])[:12] for result in (ours, theirs)]
        if found[0] != found[1]:
            raise DataError(f"{first} has {name} {found[0]}, {second} {found[1]}; accepted: one")
    metric = FAMILIES[ours["family"]].metrics[ours["metric"]]
    splits = {}
    for split in ours["summary"]:
        means = [one["summary"][split][ours["metric"]]["mean"] for one in (ours, theirs)]
        interval = bootstrap_interval(
            _outcomes(first, ours, split), metric, minus=_outcomes(second, theirs, split)
        )
        splits[split] = {
            "first": means[0],
            "second": means[1],
            "difference": means[0] - means[1],
            "interval": interval,
        }
    return {
        "metric": ours["metric"],
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "first": {name: ours[name] for name in SOURCE} | {"seeds": len(ours["seeds"])},
        "second": {name: theirs[name] for name in SOURCE} | {"seeds": len(theirs["seeds"])},
        "splits": splits,
    }


def _outcomes(workdir: Path, result: dict[str, Any], split: str) -> list[np.ndarray]:
    return [
        np.load(workdir / f"seed-{one['seed']}" / f"outcomes_{split}.npy")
        for one in result["seeds"]
        if split in one
    ]


def main() -> None:
    """Runs the command."""
    for name in ("first", "second"):
        if not FLAGS[name].value:
            raise ConfigError(f"--{name} is missing; accepted: a workdir of bert_jax.finetune")
    found = difference(Path(FLAGS.first), Path(FLAGS.second))
    for split, one in found["splits"].items():
        low, high = one["interval"]
        print(
            f"{split} {found['metric']}: {one['first']:.4f} - {one['second']:.4f} = "
            f"{one['difference']:+.4f}, interval {low:+.4f} to {high:+.4f}"
        )
    if FLAGS.output:
        write_json(Path(FLAGS.output), found)


if __name__ == "__main__":
    flags.DEFINE_string("first", None, "Workdir of a fine-tuning.")
    flags.DEFINE_string("second", None, "Workdir of the one it is compared with.")
    flags.DEFINE_string("output", None, "File for the same as JSON.")
    command.run(main)
