"""Evaluates a run on held-out examples of prepared data."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax

from bert_jax.config import override
from bert_jax.data.batch import Batch
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.data.passport import check_files, load_passport, passport_fingerprint
from bert_jax.environment import Report
from bert_jax.errors import ConfigError, DataError, located
from bert_jax.sharding import MeshConfig, make_mesh
from bert_jax.training.build import assemble
from bert_jax.training.evaluation import baselines, evaluate
from bert_jax.training.experiment import Experiment, phases
from bert_jax.training.phases import held_out_batches

FORMAT_VERSION = 1


def evaluate_run(run: Any, directory: str, *, report: Report = lambda *_: None) -> dict[str, Any]:
    """Returns metrics and baselines of a `Run` on the held-out examples in `directory`.

    The run's mesh and `model.attention` are used if they suit this machine's devices. Otherwise,
    attention is `einsum`, and the rows of a batch are split over n devices, where n is the greatest
    common divisor of `data.batch_size` and the number of devices.

    Raises:
      DataError: there are no prepared data, or they have another vocabulary.
      ConfigError: `run` has no config, or the rows are longer than `model.max_positions`.
    """
    if run.config is None:
        raise ConfigError(f"{run.path} holds weights without a run; accepted: a run of pretrain")
    passport = load_passport(directory)
    check_files(passport, directory, splits=("eval",))
    experiment = as_evaluated(run.config, passport, directory)
    check_vocabulary(run, passport, directory)
    (phase,) = phases(experiment)
    try:
        mesh = make_mesh(experiment.mesh)
        assembly = assemble(phase, mesh)
    except ConfigError:  # the run's mesh or kernel needs other devices
        devices = math.gcd(experiment.data.batch_size, jax.device_count())
        mesh = make_mesh(MeshConfig(data=devices))
        (phase,) = phases(override(experiment, {"model.attention": "einsum"}))
        assembly = assemble(phase, mesh)

    def held_out(stage: str) -> Iterator[Batch]:
        limits = (passport["splits"]["eval"]["examples"], experiment.evaluation.max_examples)
        total = -(-min(filter(None, limits)) // experiment.evaluation.batch_size)
        for number, batch in enumerate(held_out_batches(phase, assembly.host)):
            report(stage, number, total)
            yield assembly.place(batch)

    with jax.set_mesh(mesh):
        params = jax.device_put(run.params, assembly.sharding.params)
        metrics = evaluate(assembly.score, params, held_out("evaluating the run"))
        to_beat = baselines(held_out("evaluating baselines"), directory)
    return {
        "format_version": FORMAT_VERSION,
        "run": str(run.path),
        "step": run.step,
        "data": directory,
        "data_fingerprint": passport_fingerprint(passport),
        "sequence_length": experiment.data.sequence_length,
        "mesh": dict(mesh.shape),
        **metrics,
        **to_beat,
    }


def as_evaluated(experiment: Experiment, passport: dict, directory: str) -> Experiment:
    """Returns the run's experiment as a single phase, whose data are those in `directory`."""
    made = passport["preparation"]
    of_length = {phase.experiment.data.sequence_length: phase for phase in phases(experiment)}
    phase = of_length.get(made["sequence_length"], phases(experiment)[0])
    masking = frozen_masking(phase.experiment.data, made["sequence_length"])
    overrides = {f"data.{name}": value for name, value in made.items()} | {
        "data.directory": directory,
        "data.evaluation_masking": masking,
        # Nothing is trained. These values only have to pass the checks of an experiment.
        "data.masking": masking,
        "training.microbatches": 1,
        # If the pairs are of another kind, the head was not trained on their labels.
        "objective.next_sentence": (
            experiment.objective.next_sentence and made["pairs"] == experiment.data.pairs
        ),
    }
    with located(directory):
        return override(phase.experiment, overrides)


def frozen_masking(data: DataConfig, sequence_length: int) -> MaskingConfig:
    """Returns `data.evaluation_masking` with `max_predictions` scaled to `sequence_length`."""
    masking = data.evaluation_masking
    scaled = math.ceil(masking.max_predictions * sequence_length / data.sequence_length)
    room = min(max(scaled, int(sequence_length * masking.rate)), sequence_length)
    return dataclasses.replace(masking, max_predictions=room)


def check_vocabulary(run: Any, passport: dict, directory: str) -> None:
    """Raises DataError if the shards were made with another vocabulary than the run's."""
    found, wanted = passport["tokenizer_fingerprint"], run.tokenizer.fingerprint()
    if found != wanted:
        raise DataError(
            f"{directory} was made with another vocabulary ({found[:12]}) than {run.path} was "
            f"trained with ({wanted[:12]}); accepted: data prepared with the run's tokenizer.json"
        )
