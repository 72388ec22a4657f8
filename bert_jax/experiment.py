"""Experiment: everything that decides what a run computes, as one value."""

import math
from dataclasses import dataclass, field

from bert_jax.config import flatten
from bert_jax.data.config import DataConfig
from bert_jax.errors import ConfigError
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, TrainingConfig
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.optim import OptimizerConfig
from bert_jax.training.sharding import MeshConfig, ShardingRules


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One pretraining run; an experiment file's `get_config` returns one."""

    seed: int = 0
    """Draws the initial parameters, the order of the examples, the masks and dropout."""
    data: DataConfig
    model: BertConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)

    def __post_init__(self):
        if not 0 <= self.seed < 2**32:  # jax.random.key takes the lower 32 bits of a larger one
            raise ConfigError(f"seed is {self.seed}; accepted: 0 to {2**32 - 1}")
        if self.data.sequence_length > self.model.max_positions:
            raise ConfigError(
                f"data.sequence_length {self.data.sequence_length} is longer than "
                f"model.max_positions {self.model.max_positions}"
            )
        if self.optimizer.warmup_end >= self.training.steps:
            raise ConfigError(
                f"optimizer.warmup_steps {self.optimizer.warmup_steps} leaves nothing of "
                f"training.steps {self.training.steps}; accepted: fewer than "
                f"{self.training.steps - self.optimizer.warmup_start}"
            )
        if self.objective.next_sentence and self.data.pairs == "none":
            raise ConfigError(
                "objective.next_sentence is True, but with data.pairs 'none' there are no pairs to "
                "learn from; accepted: False"
            )
        for path, value in flatten(self).items():
            numbers = value if isinstance(value, tuple | list) else [value]
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ConfigError(f"{path} is {value}; accepted: finite numbers")
        # The rest of the row is specials, so a wider batch field could never be filled.
        for name in ("masking", "evaluation_masking"):
            width = getattr(self.data, name).max_predictions
            if width > self.data.sequence_length:
                raise ConfigError(
                    f"data.{name}.max_predictions {width} is more than "
                    f"data.sequence_length {self.data.sequence_length}"
                )
