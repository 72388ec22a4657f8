"""Corpus -> a directory of prepared data, and the passport that says what is in it."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from itertools import repeat
from pathlib import Path

import numpy as np

from bert_jax.data.config import DataConfig
from bert_jax.data.passport import (
    FORMAT_VERSION,
    PASSPORT_FILE,
    TOKEN_COUNTS_FILE,
    check_same,
    read_json,
)
from bert_jax.data.preparation.engines import Engine, Task
from bert_jax.data.preparation.exclusion import NOTHING, Exclusion
from bert_jax.data.preparation.inputs import INPUTS_FILE, check_inputs, describe_inputs
from bert_jax.data.preparation.shards import ShardTask, preparation_settings
from bert_jax.data.preparation.summary import measure_masking, summarize
from bert_jax.data.preparation.survey import (
    SURVEY_DIRECTORY,
    SurveyTask,
    check_survey,
    held_out_slice,
    train_tokenizer,
)
from bert_jax.data.records import write_array
from bert_jax.data.sources.corpora import Slice, open_corpus
from bert_jax.data.tokenizers.files import Tokenizer, load_tokenizer, save_tokenizer
from bert_jax.errors import DataError, UnfinishedError
from bert_jax.files import sha256_of_file, write_json

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes of it are done, and how many there are."""


def prepare_data(
    config: DataConfig,
    *,
    tokenizer: Tokenizer | int,
    engine: Engine,
    exclusion: Exclusion = NOTHING,
    report: Report = lambda *_: None,
) -> dict:
    """Writes `config.directory` and returns its passport; the bytes do not depend on the engine.

    What an earlier run on the same text with the same settings finished is kept.

    Args:
      tokenizer: one, or the size of the vocabulary to train.
      exclusion: of documents that are left out of vocabulary, training and held-out examples.

    Raises:
      DataError: the directory holds files made with other settings or of other text (they are not
        touched then), the corpus cannot be read, or it has too few documents.
    """
    directory = Path(config.directory)
    corpus = open_corpus(config.corpus)
    inputs = describe_inputs(corpus, threads=engine.workers)
    made_of = {
        "corpus_fingerprint": inputs["fingerprint"],
        "exclusion_fingerprint": exclusion.fingerprint(),
    }
    settings = preparation_settings(config, **made_of)
    check_inputs(directory / INPUTS_FILE, inputs, settings=settings)
    _check_shards(directory, settings)
    if isinstance(tokenizer, int):
        tokenizer = _finished_tokenizer(config, vocab_size=tokenizer) or tokenizer
    else:
        _check_tokenizer(config, tokenizer)

    slices = corpus.slices(config.train_shards)
    surveys = [
        SurveyTask(
            index=index,
            corpus_slice=corpus_slice,
            directory=directory / SURVEY_DIRECTORY,
            counts_words=isinstance(tokenizer, int),
            config=config,
            exclusion=exclusion,
            settings=settings,
        )
        for index, corpus_slice in enumerate(slices)
    ]
    make_shards = partial(_shard_tasks, config, slices, **made_of)
    shards = [] if isinstance(tokenizer, int) else make_shards(tokenizer)
    # Training shards take from the survey only what they leave out.
    of_survey = shards if exclusion.files else shards[:1]
    with _removed_if_refused(directory / SURVEY_DIRECTORY):
        if not of_survey or any(shard.finished() is None for shard in of_survey):
            found = _run("reading", surveys, engine=engine, report=report)
            check_survey(config, found)
            if isinstance(tokenizer, int):
                tokenizer = train_tokenizer(surveys, vocab_size=tokenizer)
            excluded = [frozenset(result["excluded"]) for result in found]
            shards = make_shards(tokenizer, held_out=held_out_slice(surveys), excluded=excluded)
        assert not isinstance(tokenizer, int)
        _check_shards(directory, shards[0].settings())

    directory.mkdir(parents=True, exist_ok=True)
    # Before the vocabulary, which another run will take for its own if these are the same.
    write_json(directory / INPUTS_FILE, inputs | {"settings": settings})
    if not (directory / "tokenizer.json").exists():
        save_tokenizer(tokenizer, directory)
    statistics = _run("shards", shards, engine=engine, report=report)
    evaluation, training = statistics[:1], statistics[1:]
    _check_rows(config, training=training, evaluation=evaluation)
    counts_path = directory / TOKEN_COUNTS_FILE
    passport = {
        "format_version": FORMAT_VERSION,
        **shards[0].settings(),
        "corpus": inputs,
        "exclusion": exclusion.to_json(),
        **summarize(directory, training=training, evaluation=evaluation),
    }
    passport["masking"] = measure_masking(passport, config, tokenizer)
    write_array(reduce(np.add, (shard.token_counts() for shard in shards[1:])), path=counts_path)
    passport["token_counts_sha256"] = sha256_of_file(counts_path)
    write_json(directory / PASSPORT_FILE, passport)
    shutil.rmtree(directory / SURVEY_DIRECTORY, ignore_errors=True)
    return passport


@contextmanager
def _removed_if_refused(survey: Path) -> Iterator[None]:
    """But not what an earlier run left there, or what the same command goes on with."""
    was_there = survey.exists()
    try:
        yield
    except DataError as error:
        if not was_there and not isinstance(error, UnfinishedError):
            shutil.rmtree(survey, ignore_errors=True)
        raise


def _check_rows(config: DataConfig, **statistics: Sequence[dict]) -> None:
    for split, shards in statistics.items():
        if not any(shard["examples"] for shard in shards):
            documents = sum(shard["documents"] for shard in shards)
            raise DataError(
                f"no row for {split} could be made of the {documents} documents for it in "
                f"{config.corpus}; accepted: documents with text, and shares and weights that "
                "leave some, in another data.directory"
            )


def _shard_tasks(
    config: DataConfig,
    slices: Sequence[Slice],
    tokenizer: Tokenizer,
    *,
    held_out: Slice = (),
    excluded: Iterable[frozenset[str]] = repeat(frozenset()),
    **made_of: str | None,
) -> list[ShardTask]:
    """That of the held-out examples, then those of the training examples of each slice."""
    make = partial(ShardTask, config=config, tokenizer=tokenizer, **made_of)
    training = [
        make(split="train", index=index, corpus_slice=corpus_slice, excluded=names)
        for index, (corpus_slice, names) in enumerate(zip(slices, excluded, strict=False))
    ]
    return [make(split="eval", index=0, corpus_slice=held_out), *training]


def _run(name: str, tasks: Sequence[Task], *, engine: Engine, report: Report) -> list[dict]:
    """Results of the tasks, in their order; those that are finished are not run again."""
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
    """What an earlier run trained."""
    path = Path(config.directory) / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = load_tokenizer(path)
    found = tokenizer.to_json() | {"vocab_size": tokenizer.vocab_size}
    found["tokenizer"] = found["kind"]
    names = ["tokenizer", "lower_case"]
    if config.tokenizer == "wordpiece":
        names.append("max_word_length")
    wanted = {name: getattr(config, name) for name in names} | {"vocab_size": vocab_size}
    check_same(found, wanted, where=str(path))
    return tokenizer


def _check_tokenizer(config: DataConfig, tokenizer: Tokenizer) -> None:
    """A given one has to be what the settings say, and that of an earlier run."""
    description = tokenizer.to_json()
    found = {"tokenizer": description["kind"], "lower_case": description["lower_case"]}
    for name, value in found.items():
        if getattr(config, name) != value:
            raise DataError(
                f"the given vocabulary is for data.{name} {value!r}, and data.{name} is "
                f"{getattr(config, name)!r}; accepted: the same"
            )
    path = Path(config.directory) / "tokenizer.json"
    if path.exists():
        found = {"tokenizer_fingerprint": load_tokenizer(path).fingerprint()}
        wanted = {"tokenizer_fingerprint": tokenizer.fingerprint()}
        check_same(found, wanted, where=str(path))


def _check_shards(directory: Path, wanted: dict) -> None:
    paths = [*sorted(directory.glob("*-of-*.json")), directory / PASSPORT_FILE]
    for path in filter(Path.exists, paths):
        check_same(read_json(path), wanted, where=str(path))
