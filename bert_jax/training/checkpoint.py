"""Checkpoints: orbax directories with state, data position, config, tokenizer and data passport."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from bert_jax.config import diff, from_json, to_json
from bert_jax.data.passport import check_outside_data, passport_fingerprint
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError
from bert_jax.faults import damage
from bert_jax.faults.activity import Activity
from bert_jax.models.config import BertConfig
from bert_jax.training.experiment import Experiment, Phase, phases
from bert_jax.training.initial import flatten_params
from bert_jax.training.metrics import PendingRow
from bert_jax.training.state import TrainState


class CheckpointManager(ocp.CheckpointManager):
    """orbax's manager, which leaves it to the training loop to ask whether a signal came."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False. `signals.Notice` numbers the questions to jax's preemption service."""
        del step
        return False


JSON_ITEMS = ("position", "config", "tokenizer", "passport")

RESUMABLE = (
    "mesh.",
    "training.log_every",
    "training.eval_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.on_damaged_checkpoint",
    "training.on_nonfinite",
    "training.max_nonfinite",
    "training.stall_seconds",
    "evaluation.probe",
    "model.scan_layers",
)
"""Prefixes of the fields that may change when a run continues. A new mesh, and a loop over the
layers, change only rounding. `on_nonfinite` says what happens at later steps."""


def open_checkpoints(
    workdir: Path, *, keep: int | None = None, read_only: bool = False
) -> CheckpointManager:
    """Opens `workdir/checkpoints`. Each save deletes all but the newest `keep` checkpoints."""
    return CheckpointManager(
        (workdir / "checkpoints").absolute(),
        options=ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            save_root_metadata=not read_only,
            async_options=ocp.options.AsyncOptions(
                # orbax's thread calls it when all files are written, before it renames the step.
                post_finalization_callback=lambda: _add_digests(workdir / "checkpoints")
            ),
        ),
        item_handlers={
            "state": ocp.PyTreeCheckpointHandler(),
            **{item: ocp.JsonCheckpointHandler() for item in JSON_ITEMS},
        },
    )


def _add_digests(checkpoints: Path) -> None:
    if jax.process_index() == 0:
        damage.write_digests(checkpoints)


def latest_step(workdir: Path) -> int:
    """Returns the step of the last checkpoint, or 0 if there is none."""
    return max(damage.saved_steps(workdir), default=0)


def save(
    manager: CheckpointManager,
    step: int,
    state: TrainState,
    *,
    activity: Activity,
    experiment: Experiment,
    tokenizer: Tokenizer,
    passport: dict[str, Any],
    pending: PendingRow = (),
) -> None:
    """Starts to save the state of a step. The state may be donated after this function returns.

    The checkpoint of step s holds the data position of the batch for step s + 1. It also holds the
    seconds of each kind of work of the run, and the metrics of the steps since the last row of
    metrics.jsonl, `pending`.
    """
    activity.begin("saving")
    position = {
        **next_batch(phases(experiment), step),
        "data_fingerprint": passport_fingerprint(passport),
        "spent": activity.spent(),
        "pending": list(pending),
        "digests": True,  # without digests.json, the step is damaged
    }
    manager.save(
        step,
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
    config = to_json(experiment) if experiment else {"model": to_json(model)}
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


class Restored(NamedTuple):
    """Holds what a run needs to go on from a checkpoint."""

    state: TrainState
    spent: Mapping[str, float] = MappingProxyType({})
    """Seconds of each kind of work of the run so far (`faults.activity`)."""
    pending: PendingRow = ()
    """Metrics of the steps since the last row of metrics.jsonl."""


def restore(
    manager: CheckpointManager, abstract: TrainState, *, step: int, passport: dict[str, Any]
) -> Restored:
    """Returns the state of a step, sharded like `abstract`, and what was saved with it.

    Raises:
      CheckpointError: the saved arrays do not fit the model, or the prepared data have changed.
    """
    check_arrays(manager, abstract, step=step)
    restored = _read(
        manager, step, state=_restore_pytree(abstract), position=ocp.args.JsonRestore()
    )
    saved, now = restored["position"]["data_fingerprint"], passport_fingerprint(passport)
    if saved != now:
        raise CheckpointError(
            f"the prepared data have changed since checkpoint {step} was written "
            f"(fingerprint then {saved[:12]}, now {now[:12]}); accepted: the same data, "
            "or another --workdir"
        )
    position = restored["position"]
    spent = position.get("spent") or {"unknown": position["seconds"]}  # until bert_jax 0.2
    return Restored(restored["state"], spent, position.get("pending", ()))


def restore_params(manager: CheckpointManager, abstract: Any, *, step: int) -> Any:
    """Returns the parameters of a saved step, sharded like `abstract`.

    Raises:
      CheckpointError: the saved arrays do not fit the model.
    """
    item = {"params": abstract}
    check_arrays(manager, item, step=step)
    restored = _read(manager, step, state=_restore_pytree(item, partial_restore=True))
    return restored["state"]["params"]


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


def restore_description(manager: CheckpointManager, *, step: int) -> Description:
    """Reads the description of a saved step."""
    items = ["config", "tokenizer"]
    if (Path(manager.directory) / str(step) / "passport").exists():
        items.append("passport")
    restored = _read(manager, step, **{name: ocp.args.JsonRestore() for name in items})
    config, passport = restored["config"], restored.get("passport") or None
    others = (restored["tokenizer"], passport, config.pop("head", None))
    if config.keys() == {"model"}:
        return Description(from_json(BertConfig, config["model"]), None, *others)
    experiment = from_json(Experiment, config)
    return Description(experiment.model, experiment, *others)


def _read(manager: CheckpointManager, step: int, **items: Any) -> Any:
    with _damage_is_refused(manager, step):
        return manager.restore(step, args=ocp.args.Composite(**items))


@contextlib.contextmanager
def _damage_is_refused(manager: CheckpointManager, step: int) -> Iterator[None]:
    """Turns the errors of orbax about missing or damaged files into a CheckpointError."""
    try:
        yield
    except (RuntimeError, MemoryError):  # the memory is too small for the arrays
        raise
    except Exception as error:  # orbax raises many classes, and Exception itself
        reason = repr(error.__cause__ or error)[:200]
        raise CheckpointError(
            f"{manager.directory}/{step} cannot be read ({reason}); accepted: a whole "
            "checkpoint; delete this directory to continue from the checkpoint before it"
        ) from error


def _restore_pytree(abstract: Any, **options: Any) -> ocp.args.PyTreeRestore:
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(item=abstract, restore_args=restore_args, **options)


def check_arrays(manager: CheckpointManager, abstract: Any, *, step: int) -> None:
    """Compares the saved arrays with the expected ones, because orbax would cast silently.

    `abstract` has the expected shapes and dtypes: a whole state, or a dict of some of its fields.

    Raises:
      CheckpointError: arrays are missing, unexpected or different. The message names all of them.
    """
    fields = abstract if isinstance(abstract, dict) else vars(abstract)
    with _damage_is_refused(manager, step):
        state = manager.item_metadata(step).state or {}
        saved = {field: state[field] for field in fields}
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
      CheckpointError: `workdir` is a file, lies in prepared data, holds weights without a run, or
        holds a run in which a field that is not `RESUMABLE` has another value. The message names
        the field.
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
    try:
        saved = from_json(Experiment, json.loads(file.read_text()))
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
