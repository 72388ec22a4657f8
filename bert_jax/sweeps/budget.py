"""Equal budgets for all points of a sweep: a budget is turned into `training.steps`."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax import config
from bert_jax.errors import BertJaxError, ConfigError, located, require
from bert_jax.files import read_json, write_json
from bert_jax.sweeps.grid import PlannedRun

UNITS = ("steps", "tokens", "flops", "seconds")
_BUDGET = 'a function without arguments that returns a dictionary such as {"flops": 1e15}; units: '
_BUDGET += ", ".join(UNITS)


class Budget(NamedTuple):
    """An amount of steps, tokens, FLOPs or seconds that each run of a sweep may use."""

    unit: str
    """One of `UNITS`. Tokens and FLOPs are counted as if no row had padding. Seconds are those of
    the updates, without compilation, evaluation and checkpoints."""
    amount: float


def load_budget(spec: str) -> Budget | None:
    """Calls the function budget() of an experiment file; returns None if there is none.

    Raises:
      ConfigError: it raises an exception, or returns something else than a unit and an amount.
    """
    file, _ = config.split_spec(spec)
    function = vars(config.load_module(spec)).get("budget")
    if function is None:
        return None
    with config.errors_of(file):
        found = function() if callable(function) else function
    pairs = list(found.items()) if isinstance(found, Mapping) else []
    unit, amount = pairs[0] if len(pairs) == 1 else ("", 0)
    if unit not in UNITS or not isinstance(amount, int | float) or not 0 < amount < float("inf"):
        raise ConfigError(f"{file}: budget() returns {found!r:.60}; accepted: {_BUDGET}")
    return Budget(unit, float(amount))


def spend(
    runs: Sequence[PlannedRun], budget: Budget, step_seconds: Callable[[PlannedRun], float]
) -> list[PlannedRun]:
    """Returns the runs with the number of steps that the budget allows.

    Args:
      runs: runs of one phase each.
      budget: budget of each run.
      step_seconds: function that returns the seconds of an update of a run. It is called for a
        budget in seconds only.

    Raises:
      ConfigError: the budget is not enough for one step, or the steps do not suit the experiment.
    """
    from bert_jax.planning.timeline import phase_flops  # imports jax
    from bert_jax.training.experiment import phases

    spent = []
    for run in runs:
        with located(f"the run {run.overrides!r:.200}"):
            experiment = run.experiment
            later = len(experiment.phases)
            require(not later, "phases", f"{later} more", "one phase, in a sweep with budget()")
            (phase,) = phases(experiment)
            data = experiment.data
            if budget.unit == "seconds":
                cost = step_seconds(run)
            else:
                cost = {
                    "steps": 1,
                    "tokens": data.batch_size * data.sequence_length,
                    "flops": phase_flops(phase) / phase.steps,
                }[budget.unit]
            steps = round(budget.amount / cost)
            accepted = f"at least {cost:.4g}, the cost of a step"
            require(steps >= 1, f"budget() in {budget.unit}", budget.amount, accepted)
            experiment = config.override(experiment, {"training.steps": steps})
        spent.append(replace(run, id=config.config_hash(experiment), experiment=experiment))
    return spent


class StepSeconds:
    """Measures the time of an update of each point once, and keeps it in a file.

    The ids of the runs depend on these times, so a sweep that starts again reads them.
    """

    def __init__(self, file: Path, *, may_measure: bool):
        self._file, self._may_measure = file, may_measure
        self._known = read_json(file, dict[str, float]) if file.exists() else {}

    def __call__(self, run: PlannedRun) -> float:
        """Returns the seconds of an update of a run.

        Raises:
          ConfigError: the time is not known and may not be measured here.
          BertJaxError: `bench` failed.
        """
        point = config.override(run.experiment, {"seed": 0, "training.steps": 10**6})
        key = config.config_hash(point)
        if key not in self._known:
            require(
                self._may_measure,
                "budget()",
                "seconds, and a point was not measured yet",
                "a sweep with --launcher=local on the machine of the runs",
            )
            self._known[key] = self._measure(point)
            write_json(self._file, self._known)
        return self._known[key]

    def _measure(self, point: Any) -> float:
        file = self._file.with_name("measured.json")
        write_json(file, config.to_json(point))
        command = [sys.executable, "-m", "bert_jax.bench", f"--experiment={file}", "--json"]
        print(f"measuring the time of an update: {config.config_hash(point)}", file=sys.stderr)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        file.unlink()
        if done.returncode:
            raise BertJaxError(f"bench failed: {(done.stderr.splitlines() or ['no output'])[-1]}")
        return float(json.loads(done.stdout)["step_seconds"]["median"])
