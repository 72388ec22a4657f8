"""Branches: runs that begin with the state that another run, their trunk, saved at a step.

One trunk with a constant learning rate and several decays cost less than as many whole runs
(Haegele et al. 2024, https://arxiv.org/abs/2405.18392). A branch is bitwise the run that would have
made the trunk's updates itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from bert_jax.config import diff
from bert_jax.config.paths import open_path
from bert_jax.data.passport import passport_fingerprint
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError, require
from bert_jax.faults.damage import check_step, choose_step
from bert_jax.faults.run_files import read_rows
from bert_jax.files import write_atomically
from bert_jax.training import checkpoint
from bert_jax.training.config import parse_branch
from bert_jax.training.experiment import Experiment, Phase, phases
from bert_jax.training.optim import learning_rate_schedule
from bert_jax.training.state import TrainState

OWN_FIELDS = (*checkpoint.RESUMABLE, "training.steps", "training.branch_from")
"""Prefixes of the fields in which a branch may differ from its trunk. The later phases may differ
too, and `training.steps` may not change the learning rate of the trunk's updates."""


class Trunk(NamedTuple):
    """The checkpoint from which a branch begins."""

    path: Path
    step: int
    passport: dict
    """The passport of the trunk's data."""


def open_trunk(
    experiment: Experiment, tokenizer: Tokenizer, passports: Sequence[dict]
) -> Trunk | None:
    """Returns the checkpoint that `training.branch_from` names; None if the field is empty.

    `passports` are those of the data of the experiment's phases.

    Raises:
      CheckpointError: the checkpoint is missing or damaged; or the experiment would have made other
        updates up to its step, with other data or another tokenizer.
      ConfigError: the branch would make no update.
    """
    if not experiment.training.branch_from:
        return None
    where, steps = experiment.training.branch_from, experiment.training.steps
    source, step = parse_branch(where)
    require(step < steps, "training.branch_from", where, f"a step before training.steps, {steps}")
    path = open_path(source, name="training.branch_from")
    step = choose_step(path, step)
    if jax.process_index() == 0:
        check_step(path, step)
    with checkpoint.open_checkpoints(path, read_only=True) as manager:
        stored = checkpoint.restore_description(manager, step=step)
    where = f"training.branch_from={where}"
    if stored.experiment is None or stored.passport is None:
        raise CheckpointError(f"{where} holds weights alone; accepted: a checkpoint of a run")
    if stored.tokenizer != tokenizer.to_json():
        raise CheckpointError(f"{where} has another tokenizer; accepted: the tokenizer of the data")
    check_same_updates(stored.experiment, experiment, step, where)
    trained_on = _passports_of_phases(stored.passport)
    for phase, found, wanted in zip(phases(experiment), trained_on, passports, strict=False):
        if phase.first_step < step and passport_fingerprint(found) != passport_fingerprint(wanted):
            raise CheckpointError(
                f"{where} was trained on other data than {phase.experiment.data.directory} "
                "holds now; accepted: the same data"
            )
    return Trunk(path, step, stored.passport)


def restore_trunk(trunk: Trunk, abstract: TrainState, workdir: Path) -> checkpoint.Restored:
    """Returns the state that the trunk saved, sharded like `abstract`.

    The trunk's rows of metrics.jsonl become the first rows of the branch.

    Raises:
      CheckpointError: the saved arrays do not fit the model.
    """
    with checkpoint.open_checkpoints(trunk.path, read_only=True) as manager:
        begun = checkpoint.restore(manager, abstract, step=trunk.step, passport=trunk.passport)
    rows = trunk.path / "metrics.jsonl"
    if jax.process_index() == 0 and rows.exists():
        lines = read_rows(rows).lines
        kept = [line for step, line in lines.items() if step <= trunk.step]
        write_atomically(workdir / rows.name, b"".join(kept))
    return begun


def check_same_updates(trunk: Experiment, branch: Experiment, step: int, where: str) -> None:
    """Raises CheckpointError if two experiments do not make the same updates up to a step."""
    ours, theirs = ([p for p in phases(one) if p.first_step < step] for one in (branch, trunk))
    ends, expected = ([min(p.last_step, step) for p in plan] for plan in (ours, theirs))
    accepted = f"{expected}, as in the trunk"
    require(ends == expected, f"{where}: ends of phases", ends, accepted, error=CheckpointError)
    for own, other in zip(ours, theirs, strict=True):
        for name, (now, before) in diff(own.experiment, other.experiment).items():
            if not name.startswith(OWN_FIELDS):
                accepted = f"{before!r}, as in the trunk"
                require(False, f"{where}: {name}", now, accepted, error=CheckpointError)
        if own.moments != other.moments:
            accepted = f"{other.moments!r}, as in the trunk"
            require(False, f"{where}: moments", own.moments, accepted, error=CheckpointError)
        if own.experiment.data.masking.rate_points and own.run_steps != other.run_steps:
            raise CheckpointError(
                f"{where}: data.masking.rate_points depends on training.steps, which is "
                f"{own.run_steps}; accepted: {other.run_steps}, as in the trunk"
            )
        last = min(own.last_step, step)
        if not np.array_equal(_rates(own, last), _rates(other, last)):
            raise CheckpointError(
                f"{where} had other learning rates, because its schedule is not as long; accepted: "
                "optimizer.schedule=constant, or a later phase with own_schedule from this step"
            )


def _rates(phase: Phase, last: int) -> np.ndarray:
    """Returns the learning rates of a phase's updates up to step `last` of the run."""
    config = phase.experiment
    schedule = learning_rate_schedule(
        config.optimizer, steps=config.training.steps, start=phase.schedule_start
    )
    return np.asarray(schedule(np.arange(phase.first_step, last)))


def _passports_of_phases(passport: dict) -> list[dict]:
    """Returns the passport of each phase, given what `join_passports` returned."""
    first = {name: value for name, value in passport.items() if name != "second_phase"}
    later = passport.get("second_phase")
    return [first, *(_passports_of_phases(later) if later else ())]
