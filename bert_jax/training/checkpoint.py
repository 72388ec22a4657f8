"""Checkpoints: one orbax directory a step: state, data position, config, tokenizer, passport."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from bert_jax import config as configs
from bert_jax import environment
from bert_jax.data.passport import passport_fingerprint
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError
from bert_jax.files import write_json
from bert_jax.models.config import BertConfig
from bert_jax.training.experiment import Experiment, Phase, phases
from bert_jax.training.state import TrainState

RESUMABLE = (
    "mesh.",
    "training.log_every",
    "training.eval_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "evaluation.probe",
)
"""Fields that may differ when a run goes on: they change no number that it computes."""


def open_checkpoints(
    workdir: Path, *, keep: int | None = None, read_only: bool = False
) -> ocp.CheckpointManager:
    """Opens `workdir/checkpoints`; saving keeps the newest `keep` steps."""
    return ocp.CheckpointManager(
        (workdir / "checkpoints").absolute(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            save_root_metadata=not read_only,
        ),
        item_handlers={
            "state": ocp.PyTreeCheckpointHandler(),
            "position": ocp.JsonCheckpointHandler(),
            "config": ocp.JsonCheckpointHandler(),
            "tokenizer": ocp.JsonCheckpointHandler(),
            "passport": ocp.JsonCheckpointHandler(),
        },
    )


def latest_step(workdir: Path) -> int:
    """Returns the step of the last checkpoint, 0 if there is none.

    A checkpoint gets its name, the step, when all of its files are written.
    """
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: TrainState,
    *,
    started: float,
    experiment: Experiment,
    tokenizer: Tokenizer,
    passport: dict[str, Any],
) -> None:
    """Starts to save a step. The state may be donated as soon as this function returns.

    The checkpoint of step s holds the position of the batch of step s + 1.

    Args:
      manager: the manager of the run's checkpoints.
      step: the number of updates so far.
      state: the state after the step.
      started: the start on the clock of `time.monotonic`, less the seconds of earlier starts.
      experiment: the run's configuration.
      tokenizer: the tokenizer of all phases.
      passport: the joined passport of the data of all phases.
    """
    position = {
        **next_batch(phases(experiment), step),
        "data_fingerprint": passport_fingerprint(passport),
        "seconds": time.monotonic() - started,
    }
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.PyTreeSave(state),
            position=ocp.args.JsonSave(position),
            config=ocp.args.JsonSave(configs.to_json(experiment)),
            tokenizer=ocp.args.JsonSave(tokenizer.to_json()),
            passport=ocp.args.JsonSave(passport),
        ),
    )


def next_batch(plan: Sequence[Phase], step: int) -> dict[str, int]:
    """Returns the phase of the batch that follows `step` updates, and its number in the phase."""
    phase = next((phase for phase in plan if step < phase.last_step), plan[-1])
    return {"phase": phase.number, "next_batch": step - phase.first_step}


def save_params(
    directory: Path,
    params: Any,
    *,
    model: BertConfig,
    experiment: Experiment | None,
    tokenizer: dict[str, Any],
    passport: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
) -> None:
    """Writes weights alone, as step 0 of `directory`, and waits until they are there.

    Args:
      directory: gets a `checkpoints/`, but no config.json: it is no run that can go on.
      params: the parameters.
      model: what they are of.
      experiment: that trained them; None for weights from elsewhere.
      tokenizer: its `to_json()`.
      passport: of the data that they were trained on, where that is known.
      head: of a fine-tuned model, what it adds to the encoder.
    """
    config = configs.to_json(experiment) if experiment else {"model": configs.to_json(model)}
    with open_checkpoints(directory) as manager:
        manager.save(
            0,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave({"params": params}),
                config=ocp.args.JsonSave(config | ({"head": head} if head else {})),
                tokenizer=ocp.args.JsonSave(tokenizer),
                passport=ocp.args.JsonSave(passport or {}),
            ),
        )


def restore(
    manager: ocp.CheckpointManager, abstract: TrainState, *, step: int, passport: dict[str, Any]
) -> tuple[TrainState, float]:
    """Returns the state of a saved step, placed as `abstract`, and the seconds of training so far.

    Raises:
      CheckpointError: the saved arrays are not those of the model, or `passport` describes other
        data.
    """
    check_arrays(manager, abstract, step=step)
    restored = _read(
        manager, step, state=_restore_pytree(abstract), position=ocp.args.JsonRestore()
    )
    saved, now = restored["position"]["data_fingerprint"], passport_fingerprint(passport)
    if saved != now:
        raise CheckpointError(
            f"the prepared data have changed since checkpoint {step} was written "
            f"(fingerprint {now[:12]}, then {saved[:12]}); accepted: the same data, "
            "or another --workdir"
        )
    return restored["state"], restored["position"]["seconds"]


def restore_params(manager: ocp.CheckpointManager, abstract: Any, *, step: int) -> Any:
    """Returns the parameters of a saved step alone, placed as `abstract` says.

    Raises:
      CheckpointError: the saved arrays are not those of the model.
    """
    item = {"params": abstract}
    check_arrays(manager, item, step=step)
    restored = _read(manager, step, state=_restore_pytree(item, partial_restore=True))
    return restored["state"]["params"]


class Description(NamedTuple):
    """What a saved step says of itself."""

    model: BertConfig
    experiment: Experiment | None
    """None for weights from elsewhere."""
    tokenizer: dict[str, Any]
    """Its `to_json()`."""
    passport: dict[str, Any] | None
    """Of the data; None where they are not known."""
    head: dict[str, Any] | None
    """Of a fine-tuned model, what it adds to the encoder."""


def restore_description(manager: ocp.CheckpointManager, *, step: int) -> Description:
    """Returns what the arrays of a saved step are of."""
    items = ["config", "tokenizer"]
    if (Path(manager.directory) / str(step) / "passport").exists():
        items.append("passport")
    restored = _read(manager, step, **{name: ocp.args.JsonRestore() for name in items})
    config, passport = restored["config"], restored.get("passport") or None
    others = (restored["tokenizer"], passport, config.pop("head", None))
    if config.keys() == {"model"}:
        return Description(configs.from_json(BertConfig, config["model"]), None, *others)
    experiment = configs.from_json(Experiment, config)
    return Description(experiment.model, experiment, *others)


def _read(manager: ocp.CheckpointManager, step: int, **items: Any) -> Any:
    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise CheckpointError(
            f"{manager.directory}/{step} cannot be read ({reason}); accepted: whole checkpoints; "
            "delete this one to go on from the one before"
        ) from error


def _restore_pytree(abstract: Any, **options: Any) -> ocp.args.PyTreeRestore:
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args, **options)


def check_arrays(manager: ocp.CheckpointManager, abstract: Any, *, step: int) -> None:
    """Compares shapes and dtypes with the saved ones; orbax itself would cast silently.

    Args:
      manager: of the run.
      abstract: shapes and dtypes of the whole state, or of some of its fields in a dict.
      step: the saved one.

    Raises:
      CheckpointError: names every array that is missing, unexpected or of another shape.
    """
    fields = abstract if isinstance(abstract, dict) else vars(abstract)
    saved = manager.item_metadata(step).state
    wrong = []
    for field, arrays in fields.items():
        wanted, found = _describe(arrays), _describe(saved[field])
        wrong += [f"missing {field}/{path}" for path in wanted.keys() - found.keys()]
        wrong += [f"unexpected {field}/{path}" for path in found.keys() - wanted.keys()]
        wrong += [
            f"{field}/{path} is {found[path]}, not {wanted[path]}"
            for path in wanted.keys() & found.keys()
            if wanted[path] != found[path]
        ]
    if wrong:
        raise CheckpointError(
            f"checkpoint {step} in {manager.directory} is not of this model: "
            + "; ".join(sorted(wrong))
        )


def _describe(arrays: Any) -> dict[str, str]:
    """Shape and dtype of each leaf by its path; a field of a tuple goes by its name or number."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }


def check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Refuses to go on with a run whose config has changed.

    Raises:
      CheckpointError: names the first field that differs, or what else stands in the way.
    """
    file = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise CheckpointError(f"{workdir} is a file; accepted: a directory for the run")
    if not file.exists():
        if (workdir / "checkpoints").exists():
            raise CheckpointError(
                f"{workdir} holds weights without a run; accepted: another --workdir, and "
                f"training.init_from={workdir} to start from them"
            )
        return
    try:
        saved = configs.from_json(Experiment, json.loads(file.read_text()))
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; accepted: what a run wrote") from error
    # The given one also by way of JSON, where a list and a tuple are the same.
    given = configs.from_json(Experiment, configs.to_json(experiment))
    for path, (before, now) in configs.diff(saved, given).items():
        if not path.startswith(RESUMABLE):
            raise CheckpointError(
                f"{workdir} holds a run with {path}={before!r}, not {now!r}; accepted: the same "
                "value, or another --workdir (only mesh and intervals may change on resume)"
            )


def open_workdir(workdir: Path, experiment: Experiment) -> None:
    """Makes the run directory and writes `config.json` and `environment.json`."""
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", configs.to_json(experiment))
        file = workdir / "environment.json"
        write_json(file, environment.describe_again(file))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir")  # the other processes read it from here on
