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
from bert_jax.sweeps.runs import result_of

TRUNKS = "trunks"
"""Directory of the trunks in the directory of a sweep."""


def share_trunks(
    runs: Sequence[PlannedRun], workdir: Path
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Returns the trunks that runs without a result need, and all runs.

    At least two runs begin with the last state of a trunk. Their ids do not change.
    """
    found = {run.id: trunk for run in runs if (trunk := _trunk_of(run))}
    shared = Counter(trunk.id for trunk in found.values())
    trunks = {name: trunk for name, trunk in found.items() if shared[trunk.id] > 1}
    needed = {trunk.id: trunk for name, trunk in trunks.items() if not result_of(workdir / name)}
    branches = []
    for run in runs:
        if trunk := trunks.get(run.id):
            source = f"{workdir / TRUNKS / trunk.id}@{trunk.experiment.training.steps}"
            branch = config.override(run.experiment, {"training.branch_from": source})
            run = replace(run, experiment=branch)
        branches.append(run)
    return list(needed.values()), branches


def _trunk_of(run: PlannedRun) -> PlannedRun | None:
    """Returns the run without the last phase; None if its updates would not be the same."""
    # It imports jax, which a command imports only when it runs.
    from bert_jax.training.branch import check_same_updates

    experiment = run.experiment
    if not experiment.phases or experiment.training.branch_from:
        return None
    *phases, last = experiment.phases
    steps = experiment.training.steps - last.steps
    training = replace(experiment.training, steps=steps)
    trunk = replace(experiment, training=training, phases=tuple(phases))
    try:
        check_same_updates(trunk, experiment, steps, where="the trunk")
    except CheckpointError:
        return None
    return PlannedRun(config.config_hash(trunk), {"training.steps": steps}, trunk)


def without_branch(experiment: Any) -> Any:
    """Returns the experiment without `training.branch_from`, which names no other updates.

    A run's id is its hash, and seeds of a point differ in nothing else.
    """
    return config.override(experiment, {"training.branch_from": ""})
