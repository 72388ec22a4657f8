"""Drops documents that contain evaluation texts, which a model must not have read.

A document is dropped if it shares 13 consecutive words with an evaluation text. Words are
lower-cased and lose accents and punctuation, so case, white space and tokenization make no
difference. In scripts without spaces between words (Chinese, Japanese, Thai, ...) each character
counts as a word. An evaluation text of 8 to 12 words is searched for as a whole. A shorter text,
such as `yes`, is not searched for, because it occurs everywhere.

Reference: the lengths of 13 and 8 words are from Brown et al. 2020 (GPT-3), appendix C. GPT-3
removed only the text around a match, and ignored frequent sequences of words.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain

import numpy as np
from jaxtyping import Bool, Int, UInt64

from bert_jax.data.sources.files import decode_line, line_place, lines_from, sha256_of
from bert_jax.data.tokenizers.words import RecentWords, split_unspaced, split_whitespace, split_word
from bert_jax.errors import DataError

RUN_WORDS = 13
MIN_WORDS = 8

_RULE = 2  # version of the definition of a word
_SIEVE_BITS = 22
_SIEVE_SHIFT = np.uint64(64 - _SIEVE_BITS)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits everywhere: 2**64 / golden ratio


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """The files of evaluation texts. Each process that receives an Exclusion reads the files."""

    files: tuple[tuple[str, str], ...] = ()
    """Path and SHA-256 of each file; () excludes nothing."""
    texts: int = 0
    """Number of texts."""
    short_texts: int = 0
    """Number of texts that are too short to be searched for."""

    def drops(self, text: str) -> bool:
        """Returns whether a document contains one of the texts."""
        return bool(self.files) and _runs_of(self.files).occur_in(text)

    def fingerprint(self) -> str | None:
        """Returns a SHA-256 of the exclusion rule and of the files; None if nothing is excluded.

        This SHA-256 does not depend on the paths of the files.
        """
        if not self.files:
            return None
        content = [_RULE, RUN_WORDS, MIN_WORDS, *sorted(digest for _, digest in self.files)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> dict | None:
        if not self.files:
            return None
        return {
            "files": [{"path": path, "sha256": digest} for path, digest in self.files],
            "texts": self.texts,
            "short_texts": self.short_texts,
            "run_words": RUN_WORDS,
            "min_words": MIN_WORDS,
        }


def open_exclusion(paths: Sequence[str]) -> Exclusion:
    """Reads files of evaluation texts: UTF-8, with one text per line.

    Args:
      paths: local paths or fsspec URLs, also of compressed files.

    Raises:
      DataError: a file cannot be read, is not UTF-8, or holds no text that is long enough.
    """
    files = tuple((path, _sha256_of(path)) for path in paths)
    if not files:
        return Exclusion()
    runs = _runs_of(files)
    return Exclusion(files=files, texts=runs.texts, short_texts=runs.short_texts)


def _sha256_of(path: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__  # fsspec sets no strerror
        raise DataError(
            f"--exclude={path} cannot be read ({reason}); accepted: a file with one text per line"
        ) from error


class _Runs:
    """The sequences of words ("runs") to search for, as sorted hashes of 8 bytes."""

    def __init__(self, paths: Sequence[str]):
        self.texts = self.short_texts = 0
        self._ids: dict[str, int] = {}
        heads: list[np.ndarray] = []  # hashes of each run's first 8 words
        hashes: defaultdict[int, list[np.ndarray]] = defaultdict(list)
        learn = _encoder(lambda word: self._ids.setdefault(word, len(self._ids) + 1))
        for path in paths:
            texts = [learn(text) for text in _read_texts(path)]
            long_texts = [ids for ids in texts if len(ids) >= MIN_WORDS]
            if not long_texts:
                raise DataError(
                    f"{path} holds {len(texts)} texts, none of {MIN_WORDS} words or more; "
                    "accepted: a file with one text per line"
                )
            self.texts += len(texts)
            self.short_texts += len(texts) - len(long_texts)
            for ids in long_texts:
                length = min(len(ids), RUN_WORDS)
                starts = np.arange(len(ids) - length + 1)
                heads.append(_hash_runs(ids, starts, MIN_WORDS))
                hashes[length].append(_hash_runs(ids, starts, length))
        self._heads = np.unique(np.concatenate(heads))
        # The sieve is a table of the first bits of all heads. It rejects five of six other hashes,
        # ten times as fast as a search.
        self._sieve = np.zeros(2**_SIEVE_BITS, bool)
        self._sieve[self._heads >> _SIEVE_SHIFT] = True
        self._hashes = {length: np.unique(np.concatenate(hashes[length])) for length in hashes}
        self._encode = _encoder(lambda word: self._ids.get(word, 0))  # 0: in no evaluation text

    def occur_in(self, text: str) -> bool:
        """Returns whether `text` contains a run (a sequence of words) of an evaluation text.

        Whole runs are compared only where the first 8 words of a run were found.
        """
        ids = self._encode(text)
        starts = np.arange(len(ids) - MIN_WORDS + 1)
        hashes = _hash_runs(ids, starts, MIN_WORDS)
        starts = np.flatnonzero(self._sieve[hashes >> _SIEVE_SHIFT])
        starts = starts[_contains(self._heads, hashes[starts])]
        for length, hashes in self._hashes.items():
            fitting = starts[starts + length <= len(ids)]
            if _contains(hashes, _hash_runs(ids, fitting, length)).any():
                return True
        return False


NOTHING = Exclusion()


@lru_cache(maxsize=1)
def _runs_of(files: tuple[tuple[str, str], ...]) -> _Runs:
    """Returns the sequences of words in the files. The last result is cached in the process."""
    return _Runs([path for path, _ in files])


def _read_texts(path: str) -> Iterator[str]:
    for offset, line in lines_from(path):
        text = decode_line(line, place=partial(line_place, path, offset))
        if not text.isspace():
            yield text


def _encoder(id_of: Callable[[str], int]) -> Callable[[str], UInt64[np.ndarray, "words"]]:
    """Returns a function that maps a text to the ids of its words."""

    def ids_of(raw_word: str) -> list[int]:
        words = chain.from_iterable(map(split_unspaced, split_word(raw_word, lower_case=True)))
        return [id_of(word) for word in words if any(map(str.isalnum, word))]

    recent_ids = RecentWords(ids_of).__getitem__

    def encode(text: str) -> UInt64[np.ndarray, "words"]:
        return np.fromiter(chain.from_iterable(map(recent_ids, split_whitespace(text))), np.uint64)

    return encode


def _hash_runs(
    ids: UInt64[np.ndarray, "words"], starts: Int[np.ndarray, "runs"], length: int
) -> UInt64[np.ndarray, "runs"]:
    """Hashes each run of words by a polynomial of its ids, modulo 2**64."""
    hashes = np.zeros(len(starts), np.uint64)
    for offset in range(length):
        hashes *= _MULTIPLIER
        hashes += ids[starts + offset]
    return hashes


def _contains(
    table: UInt64[np.ndarray, "size"], hashes: UInt64[np.ndarray, "runs"]
) -> Bool[np.ndarray, "runs"]:
    """Returns True for the hashes that are in the sorted table."""
    places = np.searchsorted(table, hashes)
    places[places == len(table)] = 0
    return table[places] == hashes
