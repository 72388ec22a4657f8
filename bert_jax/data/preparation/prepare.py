"""Prepares a corpus: writes a directory of data and the passport that describes it."""

import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path

import numpy as np

from bert_jax.config.paths import open_path
from bert_jax.data.config import PREPARATION_FIELDS, DataConfig
from bert_jax.data.passport import (
    FORMAT_VERSION,
    PASSPORT_FILE,
    TOKEN_COUNTS_FILE,
    check_same,
    read_prepared,
)
from bert_jax.data.preparation import survey
from bert_jax.data.preparation.engines import Engine, Task
from bert_jax.data.preparation.exclusion import NOTHING, Exclusion
from bert_jax.data.preparation.inputs import INPUTS_FILE, check_inputs, describe_inputs
from bert_jax.data.preparation.shards import ShardTask, tokenizer_settings
from bert_jax.data.preparation.summary import measure_masking, summarize
from bert_jax.data.sources.corpora import OnBadRecord, Slice, open_corpus, read_slice
from bert_jax.data.tokenizers.files import Tokenizer, load_tokenizer, save_tokenizer
from bert_jax.errors import DataError, UnfinishedError
from bert_jax.files import sha256_of_file, write_array, write_json

Report = Callable[[str, int, int], None]
"""Called with the name of a stage, its number of bytes done and its total number of bytes."""


@dataclass(frozen=True)
class _Inputs:
    """The slices and the description of the corpus, and the settings of all prepared files."""

    slices: Sequence[Slice]
    description: dict
    settings: dict


def train_vocabulary(
    config: DataConfig,
    *,
    vocab_size: int,
    engine: Engine,
    exclusion: Exclusion = NOTHING,
    on_bad_record: OnBadRecord = "stop",
    report: Report = lambda *_: None,
) -> Tokenizer:
    """Trains a vocabulary on the documents for training, or loads that of an earlier call.

    Leaves a survey of the corpus in `config.directory`. `prepare_data` uses and removes the survey.

    Raises:
      DataError: the corpus does not give `vocab_size` pieces; other causes: see `prepare_data`.
    """
    directory = Path(config.directory)
    inputs = _open_inputs(config, on_bad_record, engine=engine, exclusion=exclusion)
    if tokenizer := _finished_tokenizer(config, vocab_size=vocab_size):
        return tokenizer
    surveys = _survey_tasks(config, inputs, exclusion=exclusion, counts_words=True)
    with _removed_if_refused(directory / survey.SURVEY_DIRECTORY):
        survey.check_survey(config, _run("reading the text", surveys, engine=engine, report=report))
        report("training the vocabulary", 0, 1)
        tokenizer = survey.train_tokenizer(surveys, vocab_size=vocab_size)
        report("training the vocabulary", 1, 1)
        _check_shards(directory, inputs.settings | tokenizer_settings(tokenizer))
    return tokenizer


def prepare_data(
    config: DataConfig,
    *,
    tokenizer: Tokenizer,
    engine: Engine,
    exclusion: Exclusion = NOTHING,
    on_bad_record: OnBadRecord = "stop",
    report: Report = lambda *_: None,
) -> dict:
    """Writes `config.directory` and returns its passport. Every engine writes the same bytes.

    Keeps the files that an earlier call with the same text and the same settings finished.

    Args:
      exclusion: evaluation texts; documents that contain such a text are left out.
      on_bad_record: whether a malformed record is an error or is skipped. The passport lists the
        skipped records.

    Raises:
      DataError: the corpus cannot be read or has too few documents, or the directory holds files
        made from other text or with other settings. These files stay as they are.
    """
    directory = Path(config.directory)
    inputs = _open_inputs(config, on_bad_record, engine=engine, exclusion=exclusion)
    _check_tokenizer(config, tokenizer)
    settings = inputs.settings | tokenizer_settings(tokenizer)
    _check_shards(directory, settings)
    make = partial(ShardTask, config=config, tokenizer=tokenizer, settings=settings)
    held_out = make(split="eval", index=0, corpus_slice=())  # the survey will fill it
    training = [make(split="train", index=i, corpus_slice=s) for i, s in enumerate(inputs.slices)]
    # Without an exclusion, only the held-out shard needs the survey.
    dependent = [held_out, *training] if exclusion.files else [held_out]
    if any(shard.finished() is None for shard in dependent):
        surveys = _survey_tasks(config, inputs, exclusion=exclusion, counts_words=False)
        with _removed_if_refused(directory / survey.SURVEY_DIRECTORY):
            found = _run("reading the text", surveys, engine=engine, report=report)
            survey.check_survey(config, found)
        held_out = replace(held_out, corpus_slice=survey.held_out_slice(surveys))
        excluded = [frozenset(result["excluded"]) for result in found]
        training = [
            replace(t, excluded=hashes) for t, hashes in zip(training, excluded, strict=True)
        ]

    directory.mkdir(parents=True, exist_ok=True)
    # Written first: a later run reuses the vocabulary only if these settings are equal.
    write_json(directory / INPUTS_FILE, inputs.description | {"settings": inputs.settings})
    if not (directory / "tokenizer.json").exists():
        save_tokenizer(tokenizer, directory)
    evaluation, *others = _run("making rows", [held_out, *training], engine=engine, report=report)
    statistics = {"training": others, "evaluation": [evaluation]}
    _check_rows(config, **statistics)
    counts_path = directory / TOKEN_COUNTS_FILE
    passport = {
        "format_version": FORMAT_VERSION,
        **settings,
        "corpus": inputs.description,
        "exclusion": exclusion.to_json(),
        **summarize(directory, **statistics),
    }
    passport["masking"] = measure_masking(passport, config, tokenizer)
    write_array(reduce(np.add, (shard.token_counts() for shard in training)), path=counts_path)
    passport["token_counts_sha256"] = sha256_of_file(counts_path)
    write_json(directory / PASSPORT_FILE, passport)
    shutil.rmtree(directory / survey.SURVEY_DIRECTORY, ignore_errors=True)
    return passport


def _open_inputs(
    config: DataConfig, on_bad_record: OnBadRecord, *, engine: Engine, exclusion: Exclusion
) -> _Inputs:
    """Lists and hashes the corpus. Raises DataError if the directory holds files of another one."""
    directory = open_path(config.directory, name="data.directory", local=True)
    corpus = open_corpus(config.corpus)
    description = describe_inputs(corpus, threads=engine.workers)
    settings = {
        "preparation": {name: getattr(config, name) for name in PREPARATION_FIELDS},
        "corpus_fingerprint": description["fingerprint"],
        "exclusion_fingerprint": exclusion.fingerprint(),
        # Both versions decide where words and sentences end.
        "unicode_version": unicodedata.unidata_version,
        "sentencex_version": version("sentencex"),
    }
    check_inputs(directory / INPUTS_FILE, description, settings=settings)
    _check_shards(directory, settings)
    slices = corpus.slices(config.train_shards, on_bad_record=on_bad_record)
    return _Inputs(slices, description, settings)


def _survey_tasks(
    config: DataConfig, inputs: _Inputs, *, exclusion: Exclusion, counts_words: bool
) -> list[survey.SurveyTask]:
    """Returns the tasks of the survey. Raises DataError if documents are fewer than shards."""
    needed = config.train_shards + 1  # one is held out
    documents = chain.from_iterable(map(read_slice, inputs.slices))
    found = sum(1 for _ in islice(documents, needed))
    if 2 < found < needed:
        raise DataError(
            f"data.train_shards is {config.train_shards}, but {config.corpus} has only {found} "
            f"documents; accepted: fewer shards, such as {max(1, found // 20)}"
        )
    return [
        survey.SurveyTask(
            index=index,
            corpus_slice=corpus_slice,
            directory=Path(config.directory) / survey.SURVEY_DIRECTORY,
            counts_words=counts_words,
            config=config,
            exclusion=exclusion,
            settings=inputs.settings,
        )
        for index, corpus_slice in enumerate(inputs.slices)
    ]


@contextmanager
def _removed_if_refused(directory: Path) -> Iterator[None]:
    """Deletes a new survey directory after a DataError, if the command cannot continue from it."""
    was_there = directory.exists()
    try:
        yield
    except DataError as error:
        if not was_there and not isinstance(error, UnfinishedError):
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _check_rows(config: DataConfig, **statistics: Sequence[dict]) -> None:
    for split, shards in statistics.items():
        if not any(shard["examples"] for shard in shards):
            documents = sum(shard["documents"] for shard in shards)
            raise DataError(
                f"the {documents} documents for {split} in {config.corpus} give no row; accepted: "
                "documents with text, a data.held_out_fraction and weights that leave documents "
                f"for {split}, and another data.directory"
            )


def _run(name: str, tasks: Sequence[Task], *, engine: Engine, report: Report) -> list[dict]:
    """Runs the unfinished tasks; returns the results of all tasks, in the order of `tasks`."""
    results = {number: task.finished() for number, task in enumerate(tasks)}
    missing = [number for number, result in results.items() if result is None]
    total = sum(task.size for task in tasks)
    done = total - sum(tasks[number].size for number in missing)
    report(name, done, total)
    for position, result in engine.run([tasks[number] for number in missing]):
        number = missing[position]
        results[number] = result
        done += tasks[number].size
        report(name, done, total)
    return [result for result in results.values() if result is not None]


def _finished_tokenizer(config: DataConfig, *, vocab_size: int) -> Tokenizer | None:
    """Loads the vocabulary of an earlier call, if any. Raises DataError if its settings differ."""
    path = Path(config.directory) / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = load_tokenizer(path)
    found = tokenizer.to_json() | {"vocab_size": tokenizer.vocab_size}
    found["tokenizer"] = found["kind"]
    wanted = {"vocab_size": vocab_size, **_normalization(config)}
    if config.tokenizer == "wordpiece":
        wanted["max_word_length"] = config.max_word_length
    check_same(found, wanted, where=str(path))
    return tokenizer


def _check_tokenizer(config: DataConfig, tokenizer: Tokenizer) -> None:
    """Raises DataError if the tokenizer contradicts `config` or an earlier run's tokenizer.json."""
    description = tokenizer.to_json()
    description["tokenizer"] = description["kind"]
    for name, value in _normalization(config).items():
        if (found := description.get(name)) != value:
            raise DataError(
                f"the given vocabulary is for data.{name} {found!r}, but data.{name} is "
                f"{value!r}; accepted: the same value"
            )
    path = Path(config.directory) / "tokenizer.json"
    if path.exists():
        found = {"tokenizer_fingerprint": load_tokenizer(path).fingerprint()}
        wanted = {"tokenizer_fingerprint": tokenizer.fingerprint()}
        check_same(found, wanted, where=str(path))


def _normalization(config: DataConfig) -> dict:
    """Returns the fields that the description of a tokenizer has too."""
    return {
        "tokenizer": config.tokenizer_kind,
        "lower_case": config.lower_case,
        "strip_accents": config.stripping,
    }


def _check_shards(directory: Path, wanted: dict) -> None:
    paths = [*sorted(directory.glob("*-of-*.json")), directory / PASSPORT_FILE]
    for path in filter(Path.exists, paths):
        check_same(read_prepared(path), wanted, where=str(path))
