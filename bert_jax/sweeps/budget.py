"""Equal budgets for all points of a sweep: a budget is turned into `training.steps`."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax import config
from bert_jax.errors import BertJaxError, ConfigError, located, require
from bert_jax.files import read_json, write_json
from bert_jax.sweeps.grid import PlannedRun, describe

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
    runs: Sequence[PlannedRun], budget: Budget, step_seconds: Callable[[Any], float]
) -> list[PlannedRun]:
    """Returns the runs with the number of steps that the budget allows.

    A run of several phases spends the budget in all of them: each keeps its share of the steps.
    `step_seconds` returns the seconds of an update, given the experiment of a phase. It is called
    for a budget in seconds only.

    Raises:
      ConfigError: the steps are less than one, do not suit an experiment, or make two runs equal.
    """
    from bert_jax.training.experiment import phases  # imports jax

    spent = []
    for run in runs:
        with located(f"the run {describe(run.overrides):.200}"):
            experiment, total = run.experiment, run.experiment.training.steps
            costs = [_cost(phase, budget.unit, step_seconds) for phase in phases(experiment)]
            cost = sum(costs) / total
            steps = round(budget.amount / cost)
            accepted = f"at least {cost:.4g}, the cost of a step"
            require(steps >= 1, f"budget() in {budget.unit}", budget.amount, accepted)
            later = {
                f"phases.{number}.steps": round(phase.steps * steps / total)
                for number, phase in enumerate(experiment.phases)
            }
            experiment = config.override(experiment, {"training.steps": steps} | later)
        spent.append(replace(run, id=config.config_hash(experiment), experiment=experiment))
    counts = Counter(run.id for run in spent)
    for run in spent:
        accepted = "runs that differ in more than training.steps, which budget() sets"
        require(counts[run.id] == 1, "a run", describe(run.overrides), accepted)
    return spent


def _cost(phase: Any, unit: str, step_seconds: Callable[[Any], float]) -> float:
    """Returns the cost of all updates of a phase in the unit of a budget."""
    from bert_jax.planning.timeline import phase_flops, phase_tokens

    if unit == "flops":
        return phase_flops(phase)
    if unit == "seconds":
        return phase.steps * step_seconds(phase.experiment)
    return phase_tokens(phase) if unit == "tokens" else phase.steps


def step_seconds(experiment: Any, *, file: Path, may_measure: bool) -> float:
    """Returns the seconds of an update of a phase, given its experiment.

    `bench` measures them once, without regard to the seed. The ids of the runs depend on them, so
    they are kept in `file`, which a sweep that starts again reads.

    Raises:
      ConfigError: the time is not known and may not be measured here.
      BertJaxError: `bench` failed.
    """
    known = read_json(file, dict[str, float]) if file.exists() else {}
    point = config.override(experiment, {"seed": 0, "training.steps": 10**6})
    key, measured = config.config_hash(point), file.with_name("measured.json")
    if key not in known:
        accepted = "a sweep on the machine of the runs, without --dry_run and --launcher=slurm"
        require(may_measure, "budget()", "seconds, and a point was not measured yet", accepted)
        write_json(measured, config.to_json(point))
        command = [sys.executable, "-m", "bert_jax.bench", f"--experiment={measured}", "--json"]
        command += [f"--code={code.path}" for code in config.codes_of(point)]
        print(f"measuring the time of an update: {key}", file=sys.stderr)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        measured.unlink()
        if done.returncode:
            raise BertJaxError(f"bench failed: {(done.stderr.splitlines() or ['no output'])[-1]}")
        known[key] = float(json.loads(done.stdout)["step_seconds"]["median"])
        write_json(file, known)
    return known[key]
