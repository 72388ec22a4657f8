"""How long to train, in which phases, and how often to log, evaluate and save."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from bert_jax.config import PositiveInt, check_bounds
from bert_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length of a run in optimizer updates, and the intervals of logs, evaluations, checkpoints."""

    steps: PositiveInt
    """Optimizer updates of all phases together."""
    init_from: str = ""
    """Path of the initial weights, anything that `load_run` opens; empty for random weights. Step
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
class SecondPhaseConfig:
    """The end of a run on other rows, as BERT's last tenth on 512 tokens; first all is `data`'s.

    One run, one count of steps, one line of checkpoints. What is not named here stays as it is.
    """

    steps: Annotated[int, Meta(ge=0)] = 0
    """The last of `training.steps`; 0 for no second phase, whatever the other fields are."""
    directory: str = ""
    """Of its data; if empty, `data.directory` with a hyphen and the sequence length at its end."""
    sequence_length: Annotated[int, Meta(ge=5)] = 512
    batch_size: Annotated[int, Meta(ge=1)] = 256
    pairs_per_row: int | None = None
    """Null: that of `data`."""
    max_predictions: Annotated[int, Meta(ge=1)] = 77
    """Of `data.masking` and of `data.evaluation_masking`."""
    microbatches: Annotated[int, Meta(ge=1)] = 1
    learning_rate: float | None = None
    """Null: one schedule over all of `training.steps`. Else each phase has a schedule over its own
    steps, and that of the second rises to this rate."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 0
    """Of a schedule of its own."""
    moments: Literal["kept", "recounted", "zeroed"] = "kept"
    """Of the optimizer: kept; kept, but counted from 0 in Adam's bias correction (NVIDIA); 0."""

    def __post_init__(self):
        check_bounds(self, "second_phase")
        if self.warmup_steps and self.learning_rate is None:
            raise ConfigError(
                f"second_phase.warmup_steps is {self.warmup_steps} without a "
                "second_phase.learning_rate to rise to; accepted: both, or neither"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The held-out evaluation; masks and examples are the same whenever and wherever it runs."""

    batch_size: PositiveInt = 256
    """Rows of an evaluation batch, all devices and hosts together."""
    max_examples: PositiveInt | None = None
    """Number of held-out examples to use, evenly spaced; null for all."""
    probe: str = ""
    """A fine-tuning file, experiments/finetune/FILE.py; each evaluation measures a linear probe on
    its task. Empty for none."""

    def __post_init__(self):
        check_bounds(self, "evaluation")
