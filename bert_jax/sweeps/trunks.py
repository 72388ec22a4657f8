"""Trunks: the updates that several runs of a sweep have in common, made once.

Runs that differ only in their last phase, such as in how the learning rate decays, make the same
updates before it. These are the updates of a run without that phase, their trunk.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bert_jax import config
from bert_jax.errors import CheckpointError
from bert_jax.sweeps.grid import PlannedRun


def trunks_of(runs: Sequence[PlannedRun]) -> dict[str, PlannedRun]:
    """Returns the trunk of each run that shares one with another run, by the run's id."""
    trunks = {run.id: trunk for run in runs if (trunk := _trunk_of(run))}
    shared = Counter(trunk.id for trunk in trunks.values())
    return {name: trunk for name, trunk in trunks.items() if shared[trunk.id] > 1}


def _trunk_of(run: PlannedRun) -> PlannedRun | None:
    """Returns the run without the last phase; None if its updates would not be the same."""
    # It imports jax, which a command imports only when it runs.
    from bert_jax.training.branch import check_same_updates

    experiment = run.experiment
    if not experiment.phases or experiment.training.branch_from:
        return None
    *phases, last = experiment.phases
    steps = experiment.training.steps - last.steps
    trunk = config.override(experiment, {"phases": [], "training.steps": steps})
    trunk = replace(trunk, phases=tuple(phases))
    try:
        check_same_updates(trunk, experiment, steps, where="the trunk")
    except CheckpointError:
        return None
    return PlannedRun(config.config_hash(trunk), {}, trunk)


def as_branch(run: PlannedRun, trunk: PlannedRun, workdir: Path) -> PlannedRun:
    """Returns the run with `training.branch_from`; the trunk's directory is in `workdir`."""
    source = f"{workdir / trunk.id}@{trunk.experiment.training.steps}"
    branch = config.override(run.experiment, {"training.branch_from": source})
    return replace(run, experiment=branch)


def without_branch(experiment: Any) -> Any:
    """Returns the experiment without `training.branch_from`, as the hash in a run's id has it."""
    return config.override(experiment, {"training.branch_from": ""})
