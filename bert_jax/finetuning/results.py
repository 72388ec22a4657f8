"""The results of the seeds of a fine-tuning: their files, their summary and a table of it."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from rich.table import Table

from bert_jax.errors import CheckpointError
from bert_jax.files import check_json, parsing, read_json
from bert_jax.statistics.examples import MANY_SEEDS, RESAMPLES, interval_over_examples
from bert_jax.statistics.seeds import CONFIDENCE
from bert_jax.tasks.datasets import compute_metrics
from bert_jax.tasks.families.family import Family, Outcomes

SIGNED = ("matthews", "pearson", "spearman")
"""Metrics between -1 and 1; all others are between 0 and 1."""


class FinishedSeed(TypedDict):
    """Fields of the `result.json` of a seed, which also has `test` if its labels are known."""

    seed: int
    best_step: int
    dev: dict[str, float]


class DivergedSeed(TypedDict):
    """Fields of the `result.json` of a seed that diverged."""

    seed: int
    diverged_at_step: int


def read_seed(file: Path, metric: str, splits: Sequence[str]) -> dict[str, Any]:
    """Returns the `result.json` of a seed, which has `metric` of each of `splits`, or has diverged.

    Raises:
      CheckpointError: the file is damaged.
    """
    damage: dict[str, Any] = {"error": CheckpointError, "advice": _retraining(file)}
    result = read_json(file, **damage)
    check_json(result, FinishedSeed if "dev" in result else DivergedSeed, place=file, **damage)
    for split in splits if "dev" in result else ():
        check_json(result.get(split), dict[str, float], place=f"{file}: {split}", **damage)
        if metric not in result[split]:
            raise CheckpointError(f"{file}: {split} lacks {metric}{_retraining(file)}")
    return result


def read_outcomes(file: Path, family: Family, metrics: dict[str, float]) -> Outcomes:
    """Reads the outcomes of a seed on a split, from which its `metrics` were computed.

    Raises:
      CheckpointError: the file is missing or damaged, or gives other metrics.
    """
    whole = "the file as it was written"
    with parsing(file, accepted=f"{whole}{_retraining(file)}", error=CheckpointError):
        # A mapping needs no memory, whatever size the header names.
        outcomes = np.array(np.load(file, mmap_mode="r"))
        found = compute_metrics(family, outcomes)
    for name, value in metrics.items():
        if not math.isclose(found.get(name, math.nan), value, abs_tol=1e-6):
            raise CheckpointError(
                f"{file} gives {name} {found.get(name)}, but result.json beside it has {value}; "
                f"accepted: {whole}{_retraining(file)}"
            )
    return outcomes


def _retraining(file: Path) -> str:
    return f"; delete {file.parent} to train this seed again"


def summarize(
    outcomes: Sequence[Outcomes], metrics: dict[str, Callable[[Outcomes], float | None]], main: str
) -> dict[str, dict[str, Any]]:
    """Returns each metric's mean and sample standard deviation, and the main metric's interval."""
    summary = {}
    for name, metric in metrics.items():
        values = [value for one in outcomes if (value := metric(one)) is not None]
        if not values:
            continue
        summary[name] = {
            "mean": float(np.mean(values)),
            "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
    low, high = interval_over_examples(outcomes, metrics[main])
    summary[main] |= {
        "interval": [max(low, -1.0 if main in SIGNED else 0.0), min(high, 1.0)],
        "method": "student_t" if len(outcomes) < MANY_SEEDS else "multi_bootstrap",
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
    }
    return summary


def result_table(result: dict[str, Any]) -> Table:
    """Returns a table with a row for each split and metric, the main metric first."""
    names, labels = list(result["baselines"]["dev"]), result["labels"]
    columns = ("seeds", "mean ± sd", "interval", *(name.replace("_", " ") for name in names))
    failed = ", ".join(f"seed {seed}" for seed in result["failed_seeds"]) or "none"
    hashes = f"config {result['config_hash']}, checkpoint {result['checkpoint_sha256'][:12]}"
    table = Table("", *columns, caption=f"{hashes}\nfailed seeds: {failed}")
    for split, summary in result["summary"].items():
        for metric in sorted(summary, key=lambda name: name != result["metric"]):
            seeds = " ".join(_cell(seed.get(split, {}).get(metric)) for seed in result["seeds"])
            baselines = [_cell(result["baselines"][split][name][metric]) for name in names]
            of_label = f" of {labels[1]}" if metric == "f1" and len(labels) > 1 else ""
            table.add_row(
                f"{split} {metric}{of_label}", seeds, *_spread(summary[metric]), *baselines
            )
        table.add_section()
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _spread(summary: dict[str, Any]) -> tuple[str, str]:
    deviation, interval = summary["standard_deviation"], summary.get("interval")
    mean = _cell(summary["mean"]) + (f" ± {deviation:.4f}" if deviation is not None else "")
    return mean, f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
