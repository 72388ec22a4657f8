"""How long to train, in which phases, and how often to log, evaluate and save."""

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from bert_jax.config import PositiveInt, check_bounds, leaves


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length of a run in optimizer updates, and the intervals of logs, evaluations, checkpoints."""

    steps: PositiveInt
    """Optimizer updates of all phases together."""
    init_from: str = ""
    """Path of the initial weights for `load_run`; empty for random weights. Step
    and optimizer start at 0."""
    microbatches: PositiveInt = 1
    """Parts of the global batch that are processed one after another, to save memory."""
    log_every: PositiveInt = 10
    """Updates between rows of metrics; evaluations and checkpoints write a row too."""
    eval_every: PositiveInt = 1000
    """Updates between evaluations."""
    checkpoint_every: PositiveInt = 1000
    """Updates between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Number of the newest checkpoints that stay."""

    def __post_init__(self):
        check_bounds(self, "training")


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """A later phase of a run: its length and the fields that it changes.

    A run has one count of steps and one series of checkpoints. The first phase is the experiment
    itself, for the steps that the later phases leave.
    """

    steps: PositiveInt
    """Optimizer updates of the phase, a part of `training.steps`."""
    moments: Literal["kept", "recounted", "zeroed"] = "kept"
    """Adam's moments at the start of the phase. `recounted` keeps the moments and sets the step
    count of the bias correction to 0 (NVIDIA). `zeroed` sets the moments to 0 too."""
    own_schedule: bool = False
    """Whether a new learning-rate schedule starts with the phase. False continues the current
    schedule, which spans all steps until the next phase with a schedule of its own."""
    changes: dict[str, Any] = field(default_factory=dict, hash=False)
    """Field paths of the experiment and their values in this phase, such as
    `{"data.batch_size": 64}`. Every other field has the value of the first phase.
    `bert_jax.training.experiment.PHASE_FIELDS` may change, and with `own_schedule` also
    `SCHEDULE_FIELDS`. A phase that changes `data.sequence_length` alone reads
    `<data.directory>-<length>`."""

    def __post_init__(self):
        check_bounds(self, "phases")
        object.__setattr__(self, "changes", leaves(msgspec.to_builtins(self.changes)))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The held-out evaluation. Masks and examples are the same for every seed and at every step."""

    batch_size: PositiveInt = 256
    """Rows of an evaluation batch, all devices and hosts together."""
    max_examples: PositiveInt | None = None
    """Number of held-out examples to use, evenly spaced; null for all."""
    probe: str = ""
    """A fine-tuning file, experiments/finetune/FILE.py; each evaluation measures a linear probe on
    its task. Empty for none."""

    def __post_init__(self):
        check_bounds(self, "evaluation")
