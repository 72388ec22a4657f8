"""Experiment: everything that decides what a run computes, as one value."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from msgspec import Meta

from bert_jax.config import check_bounds
from bert_jax.data.config import DataConfig
from bert_jax.errors import ConfigError
from bert_jax.models.config import BertConfig
from bert_jax.sharding import MeshConfig, ShardingRules
from bert_jax.training.config import EvaluationConfig, SecondPhaseConfig, TrainingConfig
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.optim import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One pretraining run; an experiment file's `get_config` returns one."""

    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    """Draws the initial parameters, the order of the examples, the masks and dropout."""
    data: DataConfig
    model: BertConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig
    second_phase: SecondPhaseConfig = field(default_factory=SecondPhaseConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)

    def __post_init__(self):
        check_bounds(self)
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
        # The rest of the row is specials, so a wider batch field could never be filled.
        for name in ("masking", "evaluation_masking"):
            width = getattr(self.data, name).max_predictions
            if width > self.data.sequence_length:
                raise ConfigError(
                    f"data.{name}.max_predictions {width} is more than "
                    f"data.sequence_length {self.data.sequence_length}"
                )
        phases(self)  # whose checks are those of an experiment


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps of a run whose batches have one shape, as an experiment of their own."""

    number: int
    """From 1."""
    first_step: int
    """Updates that were made before."""
    last_step: int
    run_steps: int
    """Of all phases."""
    experiment: Experiment
    """Of one phase; its `training.steps` are those that the schedule spans."""
    schedule_start: int
    """The step of the run that the schedule counts as 0."""
    data_seed: int
    """Draws order and masks; another in each phase, so that two on one corpus do not draw alike."""
    moments: Literal["kept", "recounted", "zeroed"]

    @property
    def steps(self) -> int:
        return self.last_step - self.first_step


def phases(experiment: Experiment) -> tuple[Phase, ...]:
    """Returns the phases of a run in order; that of a run of one phase is the experiment itself.

    Raises:
      ConfigError: the second phase is no experiment, or leaves nothing of the first.
    """
    second, training = experiment.second_phase, experiment.training
    whole = Phase(
        number=1,
        first_step=0,
        last_step=training.steps,
        run_steps=training.steps,
        experiment=experiment,
        schedule_start=0,
        data_seed=experiment.seed,
        moments="kept",
    )
    if not second.steps:
        return (whole,)
    seam = training.steps - second.steps
    if seam < 1:
        raise ConfigError(
            f"second_phase.steps {second.steps} leaves nothing of training.steps "
            f"{training.steps} to the first; accepted: at most {training.steps - 1}"
        )
    own_schedules = second.learning_rate is not None
    with errors_of_phase(1, of=2):
        first = replace(
            experiment,
            training=replace(training, steps=seam if own_schedules else training.steps),
            second_phase=SecondPhaseConfig(),
        )
    with errors_of_phase(2, of=2):
        last = replace(
            first,
            data=_second_data(experiment),
            optimizer=_second_optimizer(experiment),
            training=replace(
                training,
                steps=second.steps if own_schedules else training.steps,
                microbatches=second.microbatches,
            ),
        )
    return (
        replace(whole, last_step=seam, experiment=first),
        Phase(
            number=2,
            first_step=seam,
            last_step=training.steps,
            run_steps=training.steps,
            experiment=last,
            schedule_start=seam if own_schedules else 0,
            data_seed=random.Random(f"{experiment.seed}/phase 2").getrandbits(32),
            moments=second.moments,
        ),
    )


@contextlib.contextmanager
def errors_of_phase(number: int, *, of: int) -> Iterator[None]:
    """Says of which phase the fields are that a ConfigError names, if there are several."""
    try:
        yield
    except ConfigError as error:
        if of == 1:
            raise
        raise ConfigError(f"phase {number} of {of}: {error}") from error


def _second_data(experiment: Experiment) -> DataConfig:
    data, second = experiment.data, experiment.second_phase
    return replace(
        data,
        directory=second.directory or f"{data.directory}-{second.sequence_length}",
        sequence_length=second.sequence_length,
        batch_size=second.batch_size,
        pairs_per_row=second.pairs_per_row or data.pairs_per_row,
        masking=replace(data.masking, max_predictions=second.max_predictions),
        evaluation_masking=replace(data.evaluation_masking, max_predictions=second.max_predictions),
    )


def _second_optimizer(experiment: Experiment) -> OptimizerConfig:
    optimizer, second = experiment.optimizer, experiment.second_phase
    if second.learning_rate is None:
        return optimizer
    return replace(
        optimizer,
        learning_rate=second.learning_rate,
        warmup_steps=second.warmup_steps,
        warmup_start=0,
    )
