"""Evaluates a run on held-out examples of data that were prepared with the run's vocabulary.

  python -m bert_jax.evaluate --run=runs/base --data=data/wikibooks-512
  python -m bert_jax.evaluate --run=runs/base --step=900000 --data=data/mine --json

Examples and masks are fixed, so on the run's own data the metrics equal the run's eval/ metrics.
Rows have the length in the data's passport.json. The run's `data.evaluation_masking` decides the
masks, with `max_predictions` scaled to the length of the rows. The metrics include nsp_loss and
nsp_accuracy only if the run was trained on pairs of the same kind (`data.pairs`).
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags

from bert_jax import command, environment
from bert_jax.errors import ConfigError, DataError, located
from bert_jax.files import naming

if TYPE_CHECKING:  # importing these imports jax; a command does so in main()
    from bert_jax.data.batch import Batch
    from bert_jax.data.config import DataConfig, MaskingConfig
    from bert_jax.runs.run import Run
    from bert_jax.training.experiment import Experiment

FORMAT_VERSION = 1


def evaluate_run(
    run: "Run", directory: str, *, report: environment.Report = lambda *_: None
) -> dict[str, Any]:
    """Returns metrics and baselines of a run on the held-out examples in `directory`.

    The run's mesh is used if it suits this machine's devices. Otherwise the rows of a batch are
    split over n devices, where n is the greatest common divisor of `data.batch_size` and the number
    of devices.

    Raises:
      DataError: there are no prepared data, or they have another vocabulary.
      ConfigError: `run` has no config, or the rows are longer than `model.max_positions`.
    """
    import jax

    from bert_jax.data.passport import check_files, load_passport, passport_fingerprint
    from bert_jax.sharding import MeshConfig, make_mesh
    from bert_jax.training.build import assemble
    from bert_jax.training.evaluation import baselines, evaluate
    from bert_jax.training.experiment import phases
    from bert_jax.training.phases import held_out_batches

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
    except ConfigError:  # the run's mesh needs other devices
        devices = math.gcd(experiment.data.batch_size, jax.device_count())
        mesh = make_mesh(MeshConfig(data=devices))
        assembly = assemble(phase, mesh)

    def held_out(stage: str) -> "Iterator[Batch]":
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


def as_evaluated(experiment: "Experiment", passport: dict, directory: str) -> "Experiment":
    """Returns the run's experiment as a single phase, whose data are those in `directory`."""
    from bert_jax.config import override
    from bert_jax.training.experiment import phases

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


def frozen_masking(data: "DataConfig", sequence_length: int) -> "MaskingConfig":
    """Returns `data.evaluation_masking` with `max_predictions` scaled to `sequence_length`."""
    masking = data.evaluation_masking
    scaled = math.ceil(masking.max_predictions * sequence_length / data.sequence_length)
    room = min(max(scaled, int(sequence_length * masking.rate)), sequence_length)
    return dataclasses.replace(masking, max_predictions=room)


def check_vocabulary(run: "Run", passport: dict, directory: str) -> None:
    """Raises DataError if the shards were made with another vocabulary than the run's."""
    found, wanted = passport["tokenizer_fingerprint"], run.tokenizer.fingerprint()
    if found != wanted:
        raise DataError(
            f"{directory} was made with another vocabulary ({found[:12]}) than {run.path} was "
            f"trained with ({wanted[:12]}); accepted: data prepared with the run's tokenizer.json"
        )


def main() -> None:
    """Runs the command."""
    environment.configure_jax()
    path, data = command.required("run"), command.required("data")
    from bert_jax.runs.run import load_run

    run = load_run(path, command.step(flags.FLAGS.step))
    with environment.progress() as report:
        result = evaluate_run(run, data, report=report)
    lines = [
        f"{name:24} {f'{value:.4f}' if isinstance(value, float) else value}"
        for name, value in result.items()
        if name != "format_version"
    ]
    with naming(command.STDOUT):
        print(json.dumps(result) if flags.FLAGS.json else "\n".join(lines))


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Directory of the run.")
    flags.DEFINE_string("step", None, command.STEP_HELP)
    flags.DEFINE_string("data", None, "Directory of prepared data.")
    flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")
    command.run(main)
