"""`Experiment`: the configuration of a pretraining run as one value, and its phases."""

import contextlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from msgspec import Meta

from bert_jax.config import check_bounds, flatten, override
from bert_jax.data.config import PREPARATION_FIELDS, DataConfig
from bert_jax.errors import ConfigError, located, require
from bert_jax.models.config import BertConfig
from bert_jax.sharding import MeshConfig, ShardingRules
from bert_jax.training.config import EvaluationConfig, PhaseConfig, TrainingConfig
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.optim import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The configuration of a pretraining run. `get_config` of an experiment file returns it."""

    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    """Seed of the initial parameters, the order of the examples, the masks and dropout."""
    data: DataConfig
    model: BertConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig
    phases: tuple[PhaseConfig, ...] = ()
    """The phases after the first, in order."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)

    def __post_init__(self):
        check_bounds(self)
        data, model, training = self.data, self.model, self.training
        length, positions = data.sequence_length, model.max_positions
        at_most = f"at most model.max_positions {positions}"
        require(length <= positions, "data.sequence_length", length, at_most)
        warmup, start = self.optimizer.warmup_steps, self.optimizer.warmup_start
        fewer = f"fewer than {training.steps - start}, for training.steps {training.steps}"
        require(warmup + start < training.steps, "optimizer.warmup_steps", warmup, fewer)
        if not model.pair_head:
            pairs, accepted = self.objective.next_sentence, "False: this model has no pair head"
            require(not pairs, "objective.next_sentence", pairs, accepted)
        pairs, segments = self.objective.next_sentence, model.num_segments
        if data.pairs == "none":
            no_pairs = "False with data.pairs=none, because there are no pairs to learn from"
            require(not pairs, "objective.next_sentence", pairs, no_pairs)
        else:
            require(segments > 1, "model.num_segments", segments, "2 or more, or data.pairs=none")
        if model.dtype == "float32":
            dtype, accepted = training.gradient_dtype, "float32 with model.dtype=float32"
            require(dtype == "float32", "training.gradient_dtype", dtype, accepted)
        for name in ("masking", "evaluation_masking"):
            width = getattr(data, name).max_predictions
            at_most = f"at most data.sequence_length {length}"
            require(width <= length, f"data.{name}.max_predictions", width, at_most)
        # Converts each change to the type of its field, so equal runs have equal configs.
        later = []
        for phase, planned in zip(self.phases, phases(self)[1:], strict=True):
            fields = flatten(planned.experiment)
            changes = {path: fields[path] for path in sorted(phase.changes)}
            later.append(replace(phase, changes=changes))
        object.__setattr__(self, "phases", tuple(later))


PHASE_FIELDS = (
    *("data.directory", "data.corpus", "data.sequence_length", "data.batch_size"),
    *("data.pairs_per_row", "data.masking", "data.evaluation_masking", "training.microbatches"),
)
"""Fields, or sections of fields, that a phase may change."""

SCHEDULE_FIELDS = (
    *("optimizer.learning_rate", "optimizer.warmup_steps", "optimizer.warmup_start"),
    *("optimizer.schedule", "optimizer.power", "optimizer.decay_from"),
)
"""Fields that a phase may change in addition, if it has `own_schedule`."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a run, as an experiment of its own. All batches of a phase have one shape."""

    number: int
    """Number of the phase, from 1."""
    first_step: int
    """Number of updates of the run before the phase."""
    last_step: int
    """Number of updates of the run at the end of the phase."""
    run_steps: int
    """Number of updates of all phases."""
    experiment: Experiment
    """The experiment with the phase's fields. `training.steps` is the length of its schedule."""
    schedule_start: int
    """Step of the run at which the learning-rate schedule starts."""
    data_seed: int
    """Seed of the order of the examples and of the masks. Each phase has a different seed."""
    moments: Literal["kept", "recounted", "zeroed"]
    """See `PhaseConfig`."""

    @property
    def steps(self) -> int:
        return self.last_step - self.first_step


def phases(experiment: Experiment) -> tuple[Phase, ...]:
    """Returns the phases of a run in order. A run without `phases` is a single phase.

    Raises:
      ConfigError: a phase changes a field that may not change; is no valid experiment; or has the
        `data.directory` of an earlier phase, but needs other data. Or the first phase has no steps.
    """
    total, later = experiment.training.steps, experiment.phases
    first_steps = total - sum(phase.steps for phase in later)
    if first_steps < 1:
        raise ConfigError(
            f"phases have {' + '.join(str(phase.steps) for phase in later)} steps, so none of "
            f"training.steps {total} is left for the first phase; accepted: at most {total - 1}"
        )
    configs = (PhaseConfig(steps=first_steps), *later)
    ends = list(itertools.accumulate(phase.steps for phase in configs))
    starts = [0, *ends[:-1]]
    own = [start for start, phase in zip(starts, configs, strict=True) if phase.own_schedule]
    base = replace(experiment, phases=()) if later else experiment
    plan, schedule_start, schedule = [], 0, {}
    for number, (config, start, end) in enumerate(zip(configs, starts, ends, strict=True), 1):
        with errors_of_phase(number, of=len(configs)):
            changes = _changes(config, experiment)
            if config.own_schedule:
                schedule_start = start
                schedule = {name: changes[name] for name in SCHEDULE_FIELDS if name in changes}
            schedule_end = next((other for other in own if other > start), total)
            steps = {"training.steps": schedule_end - schedule_start}
            phase = override(base, steps | schedule | changes) if later else base
            _check_directory(phase.data, [earlier.experiment.data for earlier in plan])
        plan.append(
            Phase(
                number=number,
                first_step=start,
                last_step=end,
                run_steps=total,
                experiment=phase,
                schedule_start=schedule_start,
                data_seed=_data_seed(experiment.seed, number),
                moments=config.moments,
            )
        )
    return tuple(plan)


def errors_of_phase(number: int, *, of: int) -> contextlib.AbstractContextManager[None]:
    """Adds the number of the phase to an error of the user, if there are several phases."""
    return located(f"phase {number} of {of}") if of > 1 else contextlib.nullcontext()


def _changes(config: PhaseConfig, experiment: Experiment) -> dict[str, Any]:
    """Returns the field values that a phase changes; a new row length adds a `data.directory`."""
    changes = dict(config.changes)
    fields, sections = flatten(experiment), tuple(f"{name}." for name in PHASE_FIELDS)
    for path in changes:
        if path in SCHEDULE_FIELDS and not config.own_schedule:
            raise ConfigError(f"{path} changes without own_schedule; accepted: own_schedule true")
        accepted = (*PHASE_FIELDS, *SCHEDULE_FIELDS)
        if path in fields and path not in accepted and not path.startswith(sections):
            raise ConfigError(f"{path} cannot change; accepted: {', '.join(accepted)}")
    length = changes.get("data.sequence_length", experiment.data.sequence_length)
    if length != experiment.data.sequence_length and "data.directory" not in changes:
        changes["data.directory"] = f"{experiment.data.directory}-{length}"
    return changes


def _check_directory(data: DataConfig, earlier: Sequence[DataConfig]) -> None:
    """Raises ConfigError if an earlier phase has the same directory but other prepared data."""
    for other in earlier:
        for name in ("corpus", *PREPARATION_FIELDS):
            before, now = getattr(other, name), getattr(data, name)
            if other.directory == data.directory and before != now:
                raise ConfigError(
                    f"data.{name} is {now!r}, but an earlier phase has {before!r} in the same "
                    f"data.directory {data.directory}; accepted: {before!r}, or another "
                    "data.directory"
                )


def _data_seed(seed: int, number: int) -> int:
    return seed if number == 1 else random.Random(f"{seed}/phase {number}").getrandbits(32)
