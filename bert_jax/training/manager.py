"""Adapts orbax's checkpoint manager: which checkpoints it keeps, its errors, what it prints."""

import contextlib
import functools
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import orbax.checkpoint as ocp

from bert_jax.config.paths import failure_of_remote, is_remote, open_path
from bert_jax.errors import BertJaxError, CheckpointError, TemporaryError
from bert_jax.faults import damage, heartbeat
from bert_jax.training.config import TrainingConfig

JSON_ITEMS = ("position", "config", "tokenizer", "passport")

policies = ocp.checkpoint_managers


class CheckpointManager(ocp.CheckpointManager):
    """orbax's manager. A save that fails raises a CheckpointError in the training loop.

    The training loop, not the manager, asks whether a signal came.
    """

    def reached_preemption(self, step: int) -> bool:
        """Returns False. `signals.Notice` numbers the questions to jax's preemption service."""
        del step
        return False

    def metrics(self, step: int) -> dict[str, Any]:
        """Returns the values of a saved step that `preservation` uses."""
        directory = open_path(str(self.directory), name="checkpoints")
        return damage.standing(directory / str(step))

    def check_saved(self) -> None:
        """Raises a CheckpointError if the last save has ended with an error."""
        if not self.is_saving_in_progress():
            self.wait_until_finished()

    def wait_until_finished(self) -> None:
        """Waits until the last save has ended.

        Raises:
          CheckpointError: a file of the step could not be written.
        """
        with saving(self):
            super().wait_until_finished()

    def _wait_for_checkpointers(self) -> None:
        """Ends all processes if this one cannot write a file; orbax would wait for ten minutes."""
        try:
            with saving(self):
                super()._wait_for_checkpointers()
        except BertJaxError as error:
            if heartbeat.is_one_of_several():
                print(f"error: {error}", file=sys.stderr, flush=True)
                heartbeat.leave(error.status, str(error))
            raise

    def delete_superseded(self) -> None:
        """Deletes the steps that a killed process would have deleted after its last save."""
        for step in self._get_old_steps_to_remove():
            self.delete(step)


@contextlib.contextmanager
def saving(manager: CheckpointManager) -> Iterator[None]:
    """Turns the errors of orbax and TensorStore about a write into a CheckpointError.

    In gs://, it is a TemporaryError, unless the credentials are missing or refused. The next start
    of the run writes to the same directory before it trains, and finds out whether the error was
    temporary.
    """
    try:
        yield
    except (BertJaxError, jax.errors.JaxRuntimeError, MemoryError):
        raise
    except Exception as error:
        said = f"{manager.directory}: a checkpoint cannot be written ({_reason(error)}); the "
        said += "checkpoints before it are kept; accepted: "
        if not str(manager.directory).startswith("gs://"):
            raise CheckpointError(f"{said}a disk with free space that can be written") from error
        if "PERMISSION_DENIED" in said:  # TensorStore has credentials of its own
            said += "application default credentials that may write there"
            raise CheckpointError(said) from error
        raise TemporaryError(f"{said}the same command, later") from error


def _reason(error: BaseException) -> str:
    """Returns the error that led to `error`, in one line."""
    error = error.__cause__ or error
    # TensorStore's message has the files first, then the system's message, then codes in brackets.
    said = re.sub(r" \[[a-z_ ]+=.*\]$", "", " ".join(str(error).split())).rpartition('": ')[2]
    return f"{type(error).__name__}: {said[:200]}"


@dataclass(frozen=True)
class _Regular(policies.PreservationPolicy):
    """Applies a policy to the checkpoints that were saved on schedule.

    A checkpoint that was saved because of a signal is kept only while it is the newest. An
    interrupted run therefore keeps the same checkpoints as a run without interruption.
    """

    policy: policies.PreservationPolicy

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        regular = [one for one in checkpoints if one.metrics["regular"]]
        chosen = self.policy.should_preserve(regular, context=context)
        kept = {one.step for one, keep in zip(regular, chosen, strict=True) if keep}
        return [one.step in kept or one is checkpoints[-1] for one in checkpoints]


def preservation(training: TrainingConfig) -> policies.PreservationPolicy:
    """Returns the policy of a run: keep the newest, the best, and multiples of `keep_every`."""
    rank = cast(Any, damage.rank)  # BestN sorts by it
    kept = [policies.LatestN(training.keep_checkpoints), policies.BestN(get_metric_fn=rank, n=1)]
    if training.keep_every:
        kept.append(policies.EveryNSteps(training.keep_every))
    return _Regular(policies.AnyPreservationPolicy(kept))


@functools.cache
def _say_errors_once() -> None:
    """Hides messages of orbax and TensorStore about a failed write, whose error orbax also raises.

    orbax logs a traceback, and closes its event loop. The other writes of the same checkpoint then
    fail, too. No code waits for their errors, so Python and asyncio would print them.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(
            lambda record: (
                not record.exc_info or "orbax" not in record.pathname + record.getMessage()
            )
        )
    warnings.filterwarnings("ignore", "coroutine .*write_fragment' was never awaited")
    others = sys.unraisablehook

    def report(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        of_orbax = code is not None and "orbax" in code.co_filename
        if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
            others(unraisable)

    sys.unraisablehook = report


def open_checkpoints(
    workdir: Path, *, training: TrainingConfig | None = None, read_only: bool = False
) -> CheckpointManager:
    """Opens `workdir/checkpoints`. Each save deletes the checkpoints that `training` does not keep.

    Nothing is deleted if `training` is None.
    """
    _say_errors_once()
    checkpoints = workdir / "checkpoints"
    return CheckpointManager(
        checkpoints if is_remote(workdir) else checkpoints.absolute(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=preservation(training) if training else None,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            save_root_metadata=not read_only,
            async_options=ocp.options.AsyncOptions(
                # orbax's thread calls it when all files are written, before it renames the step.
                post_finalization_callback=lambda: _add_digests(checkpoints)
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


@contextlib.contextmanager
def reading(manager: CheckpointManager, step: int) -> Iterator[None]:
    """Turns every error about missing, damaged or unexpected content into a CheckpointError."""
    where = f"{manager.directory}/{step}"
    try:
        yield
    except BertJaxError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except (jax.errors.JaxRuntimeError, MemoryError):  # the memory is too small for the arrays
        raise
    except Exception as error:  # orbax raises many classes, and Exception itself
        if failure_of_remote(error):  # it says nothing about the checkpoint
            raise
        said = f"{where} cannot be read ({_reason(error)}); accepted: "
        if where.startswith("gs://") and re.search("UNAVAILABLE|DEADLINE_EXCEEDED", said):
            raise TemporaryError(f"{said}the same command or call, later") from error
        advice = "a whole checkpoint; delete this directory to continue from the one before it"
        if where.startswith("gs://") and "PERMISSION_DENIED" in said:
            advice = "application default credentials that may read there"
        raise CheckpointError(said + advice) from error
