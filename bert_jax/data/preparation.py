"""Corpus -> a directory of prepared data, and the passport that says what is in it."""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bert_jax.data.config import DataConfig
from bert_jax.data.corpora import Slice, open_corpus
from bert_jax.data.engines import Engine, Task
from bert_jax.data.inputs import INPUTS_FILE, check_inputs, describe_inputs
from bert_jax.data.passport import (
    FORMAT_VERSION,
    PASSPORT_FILE,
    TOKEN_COUNTS_FILE,
    check_same,
    read_json,
)
from bert_jax.data.shards import ShardTask, preparation_settings
from bert_jax.data.survey import (
    SURVEY_DIRECTORY,
    SurveyTask,
    check_survey,
    held_out_portions,
    train_tokenizer,
)
from bert_jax.data.tokenizers import Tokenizer, load_tokenizer, save_tokenizer
from bert_jax.errors import DataError
from bert_jax.files import write_json

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes of it are done, and how many there are."""

_SUMS = (
    *("examples", "documents", "sentences", "tokens"),
    *("positions", "pairs", "random_pairs", "bytes_read"),
)


def prepare_data(
    config: DataConfig,
    *,
    tokenizer: Tokenizer | int,
    engine: Engine,
    report: Report = lambda *_: None,
) -> dict:
    """Writes `config.directory` and returns its passport; the bytes do not depend on the engine.

    What an earlier run on the same text with the same settings finished is kept.

    Args:
      tokenizer: one, or the size of the vocabulary to train.

    Raises:
      DataError: the directory holds files made with other settings or of other text (they are not
        touched then), the corpus cannot be read, or it has too few documents.
    """
    directory = Path(config.directory)
    corpus = open_corpus(config.corpus)
    inputs = describe_inputs(corpus, threads=engine.workers)
    check_inputs(directory / INPUTS_FILE, inputs)
    settings = preparation_settings(config, corpus_fingerprint=inputs["fingerprint"])
    _check_shards(directory, settings)
    if isinstance(tokenizer, int):
        tokenizer = _finished_tokenizer(config, vocab_size=tokenizer) or tokenizer
    else:
        _check_tokenizer(config, tokenizer)

    make_shard = partial(ShardTask, config=config, corpus_fingerprint=inputs["fingerprint"])
    slices = corpus.slices(config.train_shards)
    surveys = [
        SurveyTask(
            index=index,
            portions=portions,
            directory=directory / SURVEY_DIRECTORY,
            counts_words=isinstance(tokenizer, int),
            config=config,
            settings=settings,
        )
        for index, portions in enumerate(slices)
    ]
    held_out: Slice = ()
    if isinstance(tokenizer, int) or not _is_finished(
        make_shard(split="eval", index=0, tokenizer=tokenizer, portions=())
    ):
        check_survey(config, _run("reading", surveys, engine=engine, report=report))
        held_out = held_out_portions(surveys)
    if isinstance(tokenizer, int):
        tokenizer = train_tokenizer(surveys, vocab_size=tokenizer)

    evaluation = make_shard(split="eval", index=0, tokenizer=tokenizer, portions=held_out)
    training = [
        make_shard(split="train", index=index, tokenizer=tokenizer, portions=portions)
        for index, portions in enumerate(slices)
    ]
    _check_shards(directory, evaluation.settings())
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / INPUTS_FILE, inputs)
    if not (directory / "tokenizer.json").exists():
        save_tokenizer(tokenizer, directory)
    statistics = _run("shards", [evaluation, *training], engine=engine, report=report)
    passport = {"format_version": FORMAT_VERSION, **evaluation.settings(), "corpus": inputs}
    _write_passport(directory, passport, by_split={"train": statistics[1:], "eval": statistics[:1]})
    shutil.rmtree(directory / SURVEY_DIRECTORY, ignore_errors=True)
    return passport


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


def _is_finished(task: ShardTask) -> bool:
    return task.finished() is not None


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


def _write_passport(directory: Path, passport: dict, *, by_split: dict[str, list[dict]]) -> None:
    """Adds what is in the shards to the passport, and writes it."""
    token_counts = np.sum([shard["token_counts"] for shard in by_split["train"]], axis=0)
    _save_array(token_counts.astype(np.int64), path=directory / TOKEN_COUNTS_FILE)
    passport["splits"] = {split: _summary(shards) for split, shards in by_split.items()}
    write_json(directory / PASSPORT_FILE, passport)


def _summary(shards: Sequence[dict]) -> dict:
    summary: dict = {name: sum(shard[name] for shard in shards) for name in _SUMS}
    summary["shards"] = [
        {name: shard[name] for name in ("file", "sha256", "examples")} for shard in shards
    ]
    return summary


def _save_array(array: np.ndarray, *, path: Path) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as stream:
        np.save(stream, array)
    os.replace(temporary, path)
