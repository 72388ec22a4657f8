"""Surveys a corpus: reads every slice once, before any shard is written.

The survey finds errors in the text, counts documents and copies held-out documents to files. If a
vocabulary is to be trained, it also counts words.
"""

import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TextIO, TypedDict

from bert_jax.data.config import DataConfig
from bert_jax.data.passport import FORMAT_VERSION, Settings, read_prepared
from bert_jax.data.preparation.exclusion import Exclusion
from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources import corpora
from bert_jax.data.sources.base import ByteRange
from bert_jax.data.sources.jsonl import JsonlFile
from bert_jax.data.tokenizers import train_sentencepiece, train_wordpiece
from bert_jax.data.tokenizers.counts import merge_counts
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, UnfinishedError
from bert_jax.files import Count, replacing, write_atomically, write_json

SURVEY_DIRECTORY = "survey"


class SurveyResult(TypedDict):
    """The JSON file that a task leaves."""

    settings: Settings
    counts_words: bool
    train: Count
    eval: Count
    excluded: list[int]
    """Hashes of the documents that the exclusion drops."""
    hashes: list[int]
    """Hashes of the first documents, at most two that differ."""


@dataclass(frozen=True, kw_only=True)
class SurveyTask:
    """Reads one slice; writes the held-out documents, the word counts and then the result."""

    index: int
    corpus_slice: corpora.Slice
    directory: Path
    """Directory of the survey, beside the shards; removed after the last shard."""
    counts_words: bool
    config: DataConfig
    exclusion: Exclusion
    settings: dict
    """Settings of the preparation; a result with other settings is not reused."""

    @property
    def size(self) -> int:
        return corpora.size_of(self.corpus_slice)

    @property
    def path(self) -> Path:
        return self.directory / f"{self.index:05}-of-{self.config.train_shards:05}.json"

    @property
    def held_out_path(self) -> Path:
        return self.path.with_suffix(".held_out.jsonl")

    @property
    def words_path(self) -> Path:
        return self.path.with_suffix(".words.tsv")

    def run(self) -> dict:
        """Runs the task and returns its result; raises DataError if the text cannot be read."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)  # a result must not describe half-written files
        try:
            return self._run()
        except OSError as error:
            if not error.errno or Path(error.filename or self.path).parent != self.directory:
                raise  # an error in reading the corpus
            raise UnfinishedError(
                f"{self.directory} cannot be written ({error.strerror}); the same command "
                "continues from the finished slices"
            ) from error

    def _run(self) -> dict:
        result = {
            "format_version": FORMAT_VERSION,
            "settings": self.settings,
            "counts_words": self.counts_words,
            "train": 0,
            "eval": 0,
            "excluded": [],
            "hashes": [],
        }
        with (
            replacing(self.held_out_path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="\n") as held_out,
        ):
            texts = self._training_texts(result, held_out)
            if self.counts_words:
                words = self._count(texts)
                lines = (f"{word}\t{words[word]}\n" for word in sorted(words))
                write_atomically(self.words_path, "".join(lines))
            else:
                deque(texts, maxlen=0)
        write_json(self.path, result)
        return result

    def _count(self, texts: Iterator[str]) -> Counter[str]:
        """Counts words. For SentencePiece, texts are first cut into sentences, as for encoding."""
        config = self.config
        if config.tokenizer == "wordpiece":
            return train_wordpiece.count_words(
                texts, lower_case=config.lower_case, strip_accents=config.strip_accents
            )
        sentences = (s for text in texts for s in split_sentences(text, config.language))
        return train_sentencepiece.count_pretokens(sentences, lower_case=config.lower_case)

    def _training_texts(self, result: dict, held_out: TextIO) -> Iterator[str]:
        """Yields each training text as often as the weight of its source says.

        Adds every document to `result`, and writes held-out documents to `held_out`.
        """
        for document, weight in corpora.read_slice(self.corpus_slice):
            if len(hashes := result["hashes"]) < 2:
                result["hashes"] = sorted({*hashes, corpora.document_hash(document)})
            if self.exclusion.drops(document.text):
                result["excluded"].append(corpora.document_hash(document))
            elif not corpora.is_held_out(document, fraction=self.config.held_out_fraction):
                result["train"] += 1
                yield from repeat(document.text, corpora.copies(document, times=weight))
            else:
                result["eval"] += 1
                line = {"name": document.name, "text": document.text}
                held_out.write(json.dumps(line, ensure_ascii=False) + "\n")

    def finished(self) -> dict | None:
        """Returns the result of an earlier call with the same text and settings, or None."""
        if not self.path.exists():
            return None
        result = read_prepared(self.path, SurveyResult)
        enough = result["counts_words"] or not self.counts_words
        return result if enough and result["settings"] == self.settings else None


def check_survey(config: DataConfig, results: Sequence[dict]) -> None:
    """Raises DataError if a shard or the held-out split would have no document."""
    train = [result["train"] for result in results]
    held_out = sum(result["eval"] for result in results)
    dropped = sum(len(result["excluded"]) for result in results)
    left = f"{config.corpus} (--exclude drops {dropped})" if dropped else config.corpus
    if sum(train) + held_out < 2:
        raise DataError(
            f"{sum(train) + held_out} documents are left of {left}; accepted: at least two, of "
            "which one is held out (a blank line separates documents of plain text)"
        )
    if len({number for result in results for number in result["hashes"]}) == 1:
        raise DataError(
            f"the {sum(train) + held_out} documents of {left} are equal; accepted: at least two "
            "different documents, of which one is held out"
        )
    if not held_out:
        raise DataError(
            f"data.held_out_fraction is {config.held_out_fraction}, which holds out none of the "
            f"{sum(train)} documents of {left}; accepted: a fraction that holds out at least one"
        )
    if 0 in train:
        raise DataError(
            f"data.train_shards is {config.train_shards}, but {left} has only {sum(train)} "
            f"documents for training (and {held_out} held out), so shard {train.index(0)} is "
            f"empty; accepted: fewer shards, such as {max(1, sum(train) // 20)}"
        )


def held_out_slice(tasks: Sequence[SurveyTask]) -> corpora.Slice:
    """Returns a slice of the held-out documents, in the order of the corpus."""
    paths = [task.held_out_path for task in tasks]
    files = [JsonlFile(str(path), path.stat().st_size, "text") for path in paths]
    whole = [ByteRange(file=one, start=0, end=one.size, part=0, parts=1) for one in files]
    return (tuple(one for one in whole if one.end),)


def train_tokenizer(tasks: Sequence[SurveyTask], *, vocab_size: int) -> Tokenizer:
    """Trains a vocabulary on the words of all slices, the same with any number of workers.

    Raises:
      DataError: `vocab_size` is too large for the corpus, or too small for its characters.
    """
    config = tasks[0].config
    parts = (_read_words(task.words_path) for task in tasks)
    if config.tokenizer == "sentencepiece":
        return train_sentencepiece.train_sentencepiece(
            merge_counts(parts, limit=train_sentencepiece.MAX_PRETOKENS),
            vocab_size=vocab_size,
            lower_case=config.lower_case,
        )
    return train_wordpiece.train_wordpiece(
        merge_counts(parts, limit=train_wordpiece.MAX_DISTINCT_WORDS),
        vocab_size=vocab_size,
        lower_case=config.lower_case,
        strip_accents=config.strip_accents,
        max_word_length=config.max_word_length,
    )


def _read_words(path: Path) -> Counter[str]:
    with open(path, encoding="utf-8", newline="\n") as lines:
        pairs = (line.rstrip("\n").split("\t") for line in lines)
        return Counter({word: int(count) for word, count in pairs})
