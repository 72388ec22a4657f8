"""The data of each phase: the passport (`data.passport`), the tokenizer and the batches."""

from collections.abc import Iterator, Sequence

import jax

from bert_jax.data import pipeline
from bert_jax.data.batch import ONE_HOST, Batch, Host
from bert_jax.data.passport import check_files, check_passport, check_tokenizer, load_passport
from bert_jax.data.tokenizers.files import Tokenizer, load_tokenizer
from bert_jax.errors import DataError
from bert_jax.training.experiment import Phase


def load_data(phases: Sequence[Phase]) -> tuple[list[dict], Tokenizer]:
    """Returns the passport of each phase's data, and the tokenizer that all phases share.

    Raises:
      DataError: the data of a phase do not exist, or were prepared with other settings, or have
        another vocabulary than the data of the first phase.
    """
    tokenizers, loaded = [], []
    for phase in phases:
        data = phase.experiment.data
        passport = load_passport(data.directory)
        check_passport(passport, data, vocab_size=phase.experiment.model.vocab_size)
        tokenizers.append(load_tokenizer(data.directory))
        first, found = tokenizers[0].fingerprint(), tokenizers[-1].fingerprint()
        check_tokenizer(passport, found, directory=data.directory)
        if found != first:
            raise DataError(
                f"{data.directory} was made with another vocabulary ({found[:12]}) than "
                f"{phases[0].experiment.data.directory} ({first[:12]}); accepted: one for all "
                f"phases (delete {data.directory} and prepare it again)"
            )
        loaded.append(passport)
    return loaded, tokenizers[0]


def check_files_of_phases(phases: Sequence[Phase], loaded: Sequence[dict]) -> None:
    """Raises DataError if the hash of a data file differs from the hash in the passport."""
    # The training split may have hundreds of GB, so only process 0 reads it.
    splits = ("train", "eval") if jax.process_index() == 0 else ("eval",)
    for phase, passport in zip(phases, loaded, strict=True):
        check_files(passport, phase.experiment.data.directory, splits=splits)


def first_batch(phase: Phase, first_step: int, host: Host = ONE_HOST) -> Batch:
    """Returns this host's rows of the phase's first batch after step `first_step` of the run."""
    source = pipeline.TrainingSource(_read_plan(phase), host=host)
    return source[max(first_step - phase.first_step, 0)]


def training_batches(phase: Phase, first_step: int, host: Host = ONE_HOST) -> Iterator[Batch]:
    """Yields this host's rows of the phase's batches after step `first_step` of the run."""
    start = max(first_step - phase.first_step, 0)
    batches = pipeline.training_batches(_read_plan(phase), first_step=start, host=host)
    return _without_untrained_pairs(batches, phase)


def phase_of_step(phases: Sequence[Phase], step: int) -> Phase:
    """Returns the phase of an update of the run. The first update is step 1."""
    return next(phase for phase in phases if step <= phase.last_step)


def batch_of_step(phases: Sequence[Phase], step: int) -> Batch:
    """Returns the global batch of an update of the run."""
    phase = phase_of_step(phases, step)
    batch = pipeline.TrainingSource(_read_plan(phase))[step - 1 - phase.first_step]
    return next(_without_untrained_pairs(iter([batch]), phase))


def files_of_step(phases: Sequence[Phase], step: int) -> dict[str, list[int]]:
    """Returns the files of the global batch of an update of the run, and its records in each file.

    Records are numbered from 0 within a file.
    """
    phase = phase_of_step(phases, step)
    return pipeline.TrainingSource(_read_plan(phase)).files(step - 1 - phase.first_step)


def held_out_batches(phase: Phase, host: Host = ONE_HOST) -> Iterator[Batch]:
    """Yields this host's rows of the held-out examples of the phase's data."""
    data, evaluation = phase.experiment.data, phase.experiment.evaluation
    batches = pipeline.evaluation_batches(
        data, batch_size=evaluation.batch_size, max_examples=evaluation.max_examples, host=host
    )
    return _without_untrained_pairs(batches, phase)


def _without_untrained_pairs(batches: Iterator[Batch], phase: Phase) -> Iterator[Batch]:
    """Sets the pair weights to 0 if the pair loss is not trained, so no metric reports pairs."""
    if phase.experiment.objective.next_sentence:
        return batches
    return (batch._replace(pair_weights=0 * batch.pair_weights) for batch in batches)


def _read_plan(phase: Phase) -> pipeline.ReadPlan:
    return pipeline.ReadPlan(
        config=phase.experiment.data,
        seed=phase.data_seed,
        num_steps=phase.steps,
        steps_before=phase.first_step,
        run_steps=phase.run_steps,
    )
