"""Checkpoints: one orbax directory a step holds state, data position, config and tokenizer."""

import json
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from bert_jax import config as configs
from bert_jax.errors import CheckpointError
from bert_jax.experiment import Experiment
from bert_jax.training.state import TrainState

RESUMABLE = (
    "mesh.",
    "training.log_every",
    "training.eval_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
)
"""Fields that may differ when a run goes on: they change no number that it computes."""


def open_checkpoints(workdir: Path, *, keep: int | None = None) -> ocp.CheckpointManager:
    """Opens `workdir/checkpoints`; saving keeps the newest `keep` steps."""
    return ocp.CheckpointManager(
        (workdir / "checkpoints").absolute(),
        options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
        item_names=("state", "position", "config", "tokenizer"),
    )


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    *,
    step: int,
    position: dict[str, Any],
    experiment: Experiment,
    tokenizer: dict[str, Any],
) -> None:
    """Starts saving; the state may be donated as soon as this returns.

    Args:
      position: `data_fingerprint` and `seconds` of training so far.
      tokenizer: its `to_json()`.
    """
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            position=ocp.args.JsonSave(position),
            config=ocp.args.JsonSave(configs.to_json(experiment)),
            tokenizer=ocp.args.JsonSave(tokenizer),
        ),
    )


def restore(
    manager: ocp.CheckpointManager, abstract: TrainState, *, step: int, data_fingerprint: str
) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state, placed as `abstract` says, and the data position of a saved step.

    Raises:
      CheckpointError: the saved arrays are not those of the model, or the data have changed.
    """
    try:
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), position=ocp.args.JsonRestore()
            ),
        )
    except ValueError as error:
        raise CheckpointError(f"checkpoint {step} in {manager.directory}: {error}") from error
    saved = restored.position["data_fingerprint"]
    if saved != data_fingerprint:
        raise CheckpointError(
            f"the prepared data have changed since checkpoint {step} was written "
            f"(fingerprint {data_fingerprint[:12]}, then {saved[:12]}); accepted: the same data, "
            "or another --workdir"
        )
    return restored.state, restored.position


def check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Refuses to go on with a run whose config has changed.

    Raises:
      CheckpointError: names the first field that differs, or what else stands in the way.
    """
    file = workdir / "config.json"
    if not file.exists():
        return
    saved = configs.from_json(Experiment, json.loads(file.read_text()))
    for path, (before, now) in configs.diff(saved, experiment).items():
        if not path.startswith(RESUMABLE):
            raise CheckpointError(
                f"{workdir} holds a run with {path}={before!r}, not {now!r}; accepted: the same "
                "value, or another --workdir (only mesh and intervals may change on resume)"
            )
