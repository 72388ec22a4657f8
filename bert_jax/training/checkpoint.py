"""Checkpoints: orbax directories with state, data position, config, tokenizer and data passport."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from bert_jax.config import diff, from_json, parts, to_json
from bert_jax.data.passport import check_outside_data, passport_fingerprint
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError
from bert_jax.faults import damage
from bert_jax.faults.activity import Activity
from bert_jax.faults.run_files import AS_WRITTEN, WrittenRows
from bert_jax.faults.workdir import copy_code
from bert_jax.files import read_bytes, read_json
from bert_jax.models.config import BertConfig
from bert_jax.training.experiment import Experiment, Phase, phases
from bert_jax.training.initial import flatten_params
from bert_jax.training.manager import CheckpointManager, open_checkpoints, reading, saving
from bert_jax.training.metrics import PendingRow
from bert_jax.training.state import TrainState

RESUMABLE = (
    "mesh.",
    "training.log_every",
    "training.eval_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.keep_every",
    "training.on_damaged_checkpoint",
    "training.on_nonfinite",
    "training.max_nonfinite",
    "training.stall_seconds",
    "evaluation.probe",
    "model.scan_layers",
)
"""Prefixes of the fields that may change when a run continues. A new mesh, and a loop over the
layers, change only rounding. `on_nonfinite` only affects later steps."""


def latest_step(workdir: Path) -> int:
    """Returns the step of the last checkpoint that is not empty, or 0 if there is none."""
    return next((s for s in damage.saved_steps(workdir) if not damage.is_empty(workdir, s)), 0)


def save(
    manager: CheckpointManager,
    step: int,
    state: TrainState,
    *,
    activity: Activity,
    experiment: Experiment,
    tokenizer: Tokenizer,
    passport: dict[str, Any],
    written: WrittenRows | None = None,
    held_out_loss: float | None = None,
    pending: PendingRow | None = None,
) -> None:
    """Starts to save the state of a step. The state may be donated after this function returns.

    The checkpoint of step s holds the data position of the batch for step s + 1. It also holds the
    seconds of each kind of work of the run.

    Args:
      written: number and hash of the rows of metrics.jsonl.
      held_out_loss: the loss of the evaluation at this step; None without an evaluation.
      pending: the metrics of the steps since the last row of metrics.jsonl if the step is saved
        because of a signal, otherwise None.

    Raises:
      CheckpointError: this checkpoint or the previous checkpoint could not be written.
    """
    activity.begin("saving")
    plan = phases(experiment)
    number = next(phase.number for phase in plan if step <= phase.last_step)
    standing = {
        "regular": pending is None,
        "held_out": None if held_out_loss is None else {"phase": number, "loss": held_out_loss},
    }
    position = {
        **next_batch(plan, step),
        **standing,
        "data_fingerprint": passport_fingerprint(passport),
        "spent": activity.spent(),
        "pending": list(pending or ()),
        "written": written and written._asdict(),
        "digests": True,  # without digests.json, the step is damaged
    }
    with saving(manager):
        manager.save(
            step,
            metrics=standing,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                position=ocp.args.JsonSave(position),
                config=ocp.args.JsonSave(to_json(experiment)),
                tokenizer=ocp.args.JsonSave(tokenizer.to_json()),
                passport=ocp.args.JsonSave(passport),
            ),
        )


def next_batch(plan: Sequence[Phase], step: int) -> dict[str, int]:
    """Returns the phase of the batch that follows `step` updates, and its index in this phase."""
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
    """Writes parameters as step 0 of `directory/checkpoints` and waits until they are written.

    The directory gets no config.json, so no run can continue there.

    `experiment` is None for weights of another implementation. `tokenizer` is the tokenizer's
    `to_json()`. `head` configures the output layer of a fine-tuned model.
    """
    config = to_json(experiment) if experiment else {"model": to_json(model, BertConfig)}
    copy_code(experiment or model, directory)
    with open_checkpoints(directory) as manager, saving(manager):
        manager.save(
            0,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave({"params": params}),
                config=ocp.args.JsonSave(config | ({"head": head} if head else {})),
                tokenizer=ocp.args.JsonSave(tokenizer),
                passport=ocp.args.JsonSave(passport or {}),
            ),
        )


class Restored(NamedTuple):
    """Holds what a run needs to go on from a checkpoint."""

    state: TrainState
    step: int = 0
    """Number of updates that made the state."""
    spent: Mapping[str, float] = MappingProxyType({})
    """Seconds of each kind of work of the run so far (`faults.activity`)."""
    pending: PendingRow = ()
    """Metrics of the steps since the last row of metrics.jsonl."""
    written: WrittenRows | None = None
    """Number and hash of the rows of metrics.jsonl when the checkpoint was saved."""


def restore(
    manager: CheckpointManager, abstract: TrainState, *, step: int, passport: dict[str, Any]
) -> Restored:
    """Returns the state of a step, sharded like `abstract`, and what was saved with it.

    Raises:
      CheckpointError: the saved arrays do not fit the model, or the prepared data have changed.
    """
    check_arrays(manager, abstract, step=step)
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    state = ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args)
    restored = _read(manager, step, state=state, position=ocp.args.JsonRestore())
    with reading(manager, step):
        saved, now = str(restored["position"]["data_fingerprint"]), passport_fingerprint(passport)
    if saved != now:
        raise CheckpointError(
            f"the prepared data have changed since checkpoint {step} was written "
            f"(fingerprint then {saved[:12]}, now {now[:12]}); accepted: the same data, "
            "or another --workdir"
        )
    with reading(manager, step):
        position = restored["position"]
        spent = position.get("spent") or {"unknown": position["seconds"]}  # until bert_jax 0.2
        spent = {work: float(seconds) for work, seconds in spent.items()}
        pending = [
            {name: (float(total), float(weight)) for name, (total, weight) in one.items()}
            for one in position.get("pending", ())
        ]
        written = position.get("written") and WrittenRows(**position["written"])
        return Restored(restored["state"], step, spent, pending, written)


class Description(NamedTuple):
    """The config, tokenizer, passport and head that a checkpoint stores beside its arrays."""

    model: BertConfig
    experiment: Experiment | None
    """The experiment of the run; None for weights of another implementation."""
    tokenizer: dict[str, Any]
    """The tokenizer's `to_json()`."""
    passport: dict[str, Any] | None
    """The data's `passport.json` (sources, settings, statistics); None if it is not known."""
    head: dict[str, Any] | None
    """The configuration of a fine-tuned model's output layer; None for pretraining."""


def restore_description(
    manager: CheckpointManager, *, step: int, trusted: Path | None = None
) -> Description:
    """Reads the description of a saved step. Runs the files in `trusted/code` that it needs.

    Raises:
      CheckpointError: an item is missing or damaged.
    """
    items = ["config", "tokenizer"]
    if (manager.directory / str(step) / "passport").exists():
        items.append("passport")
    restored = _read(manager, step, **{name: ocp.args.JsonRestore() for name in items})
    with reading(manager, step):
        for name in items:
            if not isinstance(restored[name], dict):
                kind = type(restored[name]).__name__
                raise CheckpointError(f"its {name} is a {kind}; accepted: a JSON object")
        config, passport = restored["config"], restored.get("passport") or None
        others = (restored["tokenizer"], passport, config.pop("head", None))
        if trusted:
            copies = trusted / parts.DIRECTORY
            parts.run_copies(config, lambda name: read_bytes(copies / name, error=CheckpointError))
        if config.keys() == {"model"}:
            return Description(from_json(BertConfig, config["model"]), None, *others)
        experiment = from_json(Experiment, config)
    return Description(experiment.model, experiment, *others)


def _read(manager: CheckpointManager, step: int, **items: Any) -> Any:
    with reading(manager, step):
        return manager.restore(step, args=ocp.args.Composite(**items))


def check_arrays(manager: CheckpointManager, abstract: Any, *, step: int) -> None:
    """Compares the saved arrays with the expected ones, because orbax would cast silently.

    `abstract` has the expected shapes and dtypes: a whole state, or a dict of some of its fields.

    Raises:
      CheckpointError: arrays are missing, unexpected or different. The message names all of them.
    """
    fields = abstract if isinstance(abstract, dict) else vars(abstract)
    with reading(manager, step):
        state = manager.item_metadata(step).state or {}
        saved = {field: _describe(state[field]) for field in fields}
    wrong = []
    for field, arrays in fields.items():
        wanted, found = _describe(arrays), saved[field]
        wrong += [f"missing {field}/{path}" for path in wanted.keys() - found.keys()]
        wrong += [f"unexpected {field}/{path}" for path in found.keys() - wanted.keys()]
        wrong += [
            f"{field}/{path} is {found[path]}, not {wanted[path]}"
            for path in wanted.keys() & found.keys()
            if wanted[path] != found[path]
        ]
    if wrong:
        raise CheckpointError(
            f"checkpoint {step} in {manager.directory} is of another model: "
            + "; ".join(sorted(wrong))
        )


def _describe(arrays: Any) -> dict[str, str]:
    """Returns the dtype and shape of each array by its path."""
    return {
        path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flatten_params(arrays).items()
    }


def check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Checks that the experiment may start in `workdir`, or continue there.

    Raises:
      CheckpointError: `workdir` is a file, lies in prepared data, has a damaged `config.json`,
        holds weights without a run, or holds a run in which a field that is not `RESUMABLE` has
        another value. The message names the field.
    """
    file = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise CheckpointError(f"{workdir} is a file; accepted: a directory for the run")
    if not file.exists():
        check_outside_data(workdir)
        if (workdir / "checkpoints").exists():
            raise CheckpointError(
                f"{workdir} holds weights without a run; accepted: another --workdir, and "
                f"training.init_from={workdir} to start from them"
            )
        return
    content = read_json(file, error=CheckpointError, advice=AS_WRITTEN)
    try:
        saved = from_json(Experiment, content)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; accepted: the file as the run wrote it") from error
    _check_same(saved, experiment, what=f"{workdir} holds a run")


def check_run_of_step(
    manager: CheckpointManager, experiment: Experiment, tokenizer: Tokenizer, *, step: int
) -> None:
    """Checks that the experiment and the tokenizer wrote a step, or may continue from it.

    Raises:
      CheckpointError: the tokenizer differs, or a field of the experiment that is not `RESUMABLE`.
    """
    description = restore_description(manager, step=step)
    where = f"{manager.directory}/{step}"
    if description.experiment is None:
        raise CheckpointError(f"{where} is of no run; accepted: a checkpoint of this run")
    _check_same(description.experiment, experiment, what=f"{where} is of a run")
    if description.tokenizer != tokenizer.to_json():
        raise CheckpointError(
            f"{where} is of a run with another tokenizer; accepted: the tokenizer of the prepared "
            "data"
        )


def _check_same(saved: Experiment, experiment: Experiment, *, what: str) -> None:
    # JSON turns tuples into lists, so the given config goes through JSON too.
    given = from_json(Experiment, to_json(experiment))
    for path, (before, now) in diff(saved, given).items():
        if not path.startswith(RESUMABLE):
            fields = ", ".join(prefix.rstrip(".") for prefix in RESUMABLE)
            raise CheckpointError(
                f"{what} with {path}={before!r}, not {now!r}; accepted: the same "
                f"value, or another --workdir (on resume, only {fields} may change)"
            )
