"""How long to train, on rows of which length, and how often to look."""

from dataclasses import dataclass
from typing import Literal

from bert_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Length of a run, in optimizer updates, and its rhythm."""

    steps: int
    init_from: str = ""
    """Weights to start from, all that `load_run` opens; step and optimizer start anew."""
    microbatches: int = 1
    """Parts the global batch is processed in, one after another, where it does not fit at once."""
    log_every: int = 10
    """A row of metrics every so many steps, and at every evaluation and checkpoint."""
    eval_every: int = 1000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2

    def __post_init__(self):
        for name in (
            "steps",
            "microbatches",
            "log_every",
            "eval_every",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; accepted: at least 1")


@dataclass(frozen=True, kw_only=True)
class SecondPhaseConfig:
    """The end of a run on other rows, as BERT's last tenth on 512 tokens; first all is `data`'s.

    One run, one count of steps, one line of checkpoints. What is not named here stays as it is.
    """

    steps: int = 0
    """The last of `training.steps`; 0 for no second phase, whatever the other fields are."""
    directory: str = ""
    """Of its data; if empty, `data.directory` with a hyphen and the sequence length at its end."""
    sequence_length: int = 512
    batch_size: int = 256
    pairs_per_row: int | None = None
    """Null: that of `data`."""
    max_predictions: int = 77
    """Of `data.masking` and of `data.evaluation_masking`."""
    microbatches: int = 1
    learning_rate: float | None = None
    """Null: one schedule over all of `training.steps`. Else each phase has a schedule over its own
    steps, and that of the second rises to this rate."""
    warmup_steps: int = 0
    """Of a schedule of its own."""
    moments: Literal["kept", "recounted", "zeroed"] = "kept"
    """Of the optimizer: kept; kept, but counted from 0 in Adam's bias correction (NVIDIA); 0."""

    def __post_init__(self):
        for name, least in (
            ("steps", 0),
            ("sequence_length", 5),
            ("batch_size", 1),
            ("max_predictions", 1),
            ("microbatches", 1),
            ("warmup_steps", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"second_phase.{name} is {getattr(self, name)}; accepted: at least {least}"
                )
        if self.warmup_steps and self.learning_rate is None:
            raise ConfigError(
                f"second_phase.warmup_steps is {self.warmup_steps} without a "
                "second_phase.learning_rate to rise to; accepted: both, or neither"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The held-out evaluation; masks and examples are the same whenever and wherever it runs."""

    batch_size: int = 256
    max_examples: int | None = None
    """Evenly spaced held-out examples to use; null for all."""
    probe: str = ""
    """A fine-tuning, experiments/finetune/FILE.py, that a linear probe is measured on each time."""

    def __post_init__(self):
        for name in ("batch_size", "max_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"evaluation.{name} is {value}; accepted: at least 1")
