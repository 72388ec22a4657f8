"""Chooses hyperparameters for each point of a sweep: tune_over() of an experiment file.

A point has a trial for each dictionary that tune_over() yields. Its compared runs get the
dictionary of the trial with the lowest held-out loss.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bert_jax import config
from bert_jax.errors import require
from bert_jax.sweeps.grid import PlannedRun, overrides_of, points_of
from bert_jax.sweeps.runs import result_of, status

FILE, DIRECTORY = "tuning.json", "tuning"
"""The choices and the directory of the trials, in the directory of a sweep."""

METRIC = "mlm_loss"

SEED = 1_000_000
"""Seed of all trials. No compared run may have it: a choice suits the noise of its own seed."""

FIELDS = ("optimizer.", "model.", "data.batch_size")
"""Fields that trials may change. So all trials of a point have the same held-out tokens."""


def load_candidates(spec: str, runs: Sequence[PlannedRun]) -> list[dict[str, Any]]:
    """Calls the function tune_over() of an experiment file; returns [] if there is none.

    Raises:
      ConfigError: it yields something else than dictionaries of fields that trials may change and
        the sweep does not. Or a run has the seed of the trials.
    """
    file, _ = config.split_spec(spec)
    function = vars(config.load_module(spec)).get("tune_over")
    if function is None:
        return []
    candidates = [config.leaves(one) for one in overrides_of(function, "tune_over", file)]
    swept = tuple({f"{path}." for run in runs for path in run.overrides})
    accepted = "a field of optimizer or model, or data.batch_size, that no sweep() sets"
    for path in (path for one in candidates for path in one):
        good = path.startswith(FIELDS) and not f"{path}.".startswith(swept)
        require(good, f"{file}: a field of tune_over()", path, accepted)
    accepted = "another seed in this sweep, because the trials of tune_over() have this one"
    require(all(run.experiment.seed != SEED for run in runs), "seed", SEED, accepted)
    return candidates


def choose(trials: Sequence[PlannedRun], workdir: Path, *, fixed: Iterable[str]) -> dict[str, Any]:
    """Returns the choice among the trials of a point. `fixed` are the fields that the sweep sets.

    It has the values of the tuned fields, the metric of each trial (None if the trial failed), the
    FLOPs of all trials, and the seconds of those that did not fail. Until all trials have ended, it
    is empty. A trial that failed is chosen only if all of them failed.
    """
    flops = sum(point.flops for point in points_of(trials))
    found = {"choice": {}, "metric": METRIC, "trials": {}, "flops": flops, "seconds": 0.0}
    places = [workdir / DIRECTORY / trial.id for trial in trials]
    if any(status(place) not in ("done", "failed") for place in places):
        return found
    results = {trial.id: result_of(place) for trial, place in zip(trials, places, strict=True)}
    best = min(trials, key=lambda trial: results[trial.id].get(METRIC, math.inf))
    fields, paths = config.flatten(best.experiment), {p for one in trials for p in one.overrides}
    return found | {
        "choice": {path: fields[path] for path in sorted(paths - {*fixed, "seed"})},
        "trials": {name: result.get(METRIC) for name, result in results.items()},
        "seconds": sum(result.get("seconds", 0.0) for result in results.values()),
    }
