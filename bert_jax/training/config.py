"""How long to train, in which phases, and how often to log, evaluate and save."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from bert_jax.config import PositiveFloat, PositiveInt, check_bounds, leaves
from bert_jax.config.paths import check_path
from bert_jax.errors import require


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length of a run, and how often it logs, evaluates and saves."""

    steps: PositiveInt
    """Number of optimizer updates, all phases together."""
    init_from: str = ""
    """Path of the initial weights, which `bert_jax.load_run` opens; empty for random weights. The
    step count and the optimizer state start at 0."""
    branch_from: str = ""
    """RUN@STEP: the run begins with the parameters, moments and data position that the run in the
    directory RUN saved at STEP, and has its earlier updates in common with it; see
    `bert_jax.training.branch`. Empty for a run that makes all its updates itself."""
    microbatches: PositiveInt = 1
    """Number of parts of the global batch. To save memory, they are processed one after another."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which devices add the gradients of the kernels of dense layers. `bfloat16` sends half
    the bytes and needs `model.dtype` bfloat16. All other gradients are float32."""
    log_every: PositiveInt = 10
    """Updates between rows of metrics.jsonl. Every evaluation and checkpoint also writes a row."""
    eval_every: PositiveInt = 1000
    """Updates between evaluations."""
    checkpoint_every: PositiveInt = 1000
    """Updates between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Number of the newest checkpoints to keep. The best checkpoint, which has the lowest held-out
    loss, is kept, too. It is chosen from the checkpoints with an evaluation: at multiples of both
    `eval_every` and `checkpoint_every`, and at the last step of a phase."""
    keep_every: PositiveInt | None = None
    """A multiple of `checkpoint_every`, or null. The checkpoints at multiples of this number of
    updates are never deleted."""
    on_damaged_checkpoint: Literal["previous", "stop"] = "previous"
    """The run does this if its last checkpoint is damaged. `previous`: it moves the checkpoint to
    `damaged/` and goes on from the one before. `stop`: it ends with an error."""
    stall_seconds: PositiveFloat = 600.0
    """Maximum time without progress, in seconds; then the run ends, and stderr says where every
    process stands. Progress is a finished update, batch of an evaluation, or save. The time of
    compilation does not count."""

    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """The run does this if the loss or the gradient of a step is not finite. `stop`: it ends with
    an error. `skip`: it leaves out the update of this step. `rollback`: it goes back to its last
    checkpoint and leaves out the update when it comes to this step again."""
    max_nonfinite: PositiveInt = 10
    """Maximum number of steps whose update a run may leave out. At the next such step, the run ends
    with an error."""

    def __post_init__(self):
        check_bounds(self, "training")
        check_path(self.init_from, name="training.init_from")
        if self.branch_from:
            check_path(parse_branch(self.branch_from)[0], name="training.branch_from")
        kept, every = self.keep_every, self.checkpoint_every
        accepted = f"null, or a multiple of training.checkpoint_every, {every}"
        require(not kept or kept % every == 0, "training.keep_every", kept, accepted)


def parse_branch(branch_from: str) -> tuple[str, int]:
    """Returns the run and the step of `training.branch_from`.

    Raises:
      ConfigError: the value is not RUN@STEP.
    """
    run, _, step = branch_from.rpartition("@")
    whole = run and re.fullmatch("[1-9][0-9]*", step)
    require(whole, "training.branch_from", branch_from, "RUN@STEP, such as runs/trunk@9000")
    return run, int(step)


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """A later phase of a run: its length and the fields that it changes.

    All phases share one count of steps and one series of checkpoints. The first phase is the
    experiment itself. Its length is `training.steps` minus the steps of the later phases.
    """

    steps: PositiveInt
    """Number of optimizer updates of the phase. `training.steps` includes these updates."""
    moments: Literal["kept", "recounted", "zeroed"] = "kept"
    """Adam's moments at the start of the phase. `recounted` keeps the moments and sets the step
    count of the bias correction to 0 (NVIDIA). `zeroed` also sets the moments to 0."""
    own_schedule: bool = False
    """Whether a new learning-rate schedule starts with the phase. False continues the current
    schedule, which spans all steps until the next phase with a schedule of its own."""
    changes: dict[str, Any] = field(default_factory=dict, hash=False)
    """Field paths of the experiment and their values in this phase, such as
    `{"data.batch_size": 64}`. A phase may change `PHASE_FIELDS` of `bert_jax.training.experiment`,
    and with `own_schedule` also `SCHEDULE_FIELDS`. Other fields have the values of the first phase,
    but fields of a continued schedule keep the values of the phase in which it started. A phase
    with another length but no `data.directory` reads `<data.directory>-<length>`."""

    def __post_init__(self):
        check_bounds(self, "phases")
        object.__setattr__(self, "changes", leaves(msgspec.to_builtins(self.changes)))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The held-out evaluation. Masks and examples are the same for every seed and at every step."""

    batch_size: PositiveInt = 256
    """Number of rows of an evaluation batch, all devices and hosts together."""
    max_examples: PositiveInt | None = None
    """Number of held-out examples to use, evenly spaced; null for all."""
    probe: str = ""
    """Path of a fine-tuning file, such as experiments/finetune/FILE.py. Each evaluation also
    measures a linear probe on the task of this file. Empty for no probe."""

    def __post_init__(self):
        check_bounds(self, "evaluation")
