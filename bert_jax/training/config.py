"""How long to train, and how often to look."""

from dataclasses import dataclass

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
class EvaluationConfig:
    """The held-out evaluation; masks and examples are the same whenever and wherever it runs."""

    batch_size: int = 256
    max_examples: int | None = None
    """Evenly spaced held-out examples to use; null for all."""

    def __post_init__(self):
        for name in ("batch_size", "max_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"evaluation.{name} is {value}; accepted: at least 1")
