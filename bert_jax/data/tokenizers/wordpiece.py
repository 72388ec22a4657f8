"""WordPiece: converts words to ids of pieces, longest match first.

Reference: Devlin et al. 2018 and `tokenization.py` of google-research/bert.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from bert_jax.data.tokenizers import words
from bert_jax.data.tokenizers.base import FORMAT_VERSION, SPECIAL_PIECES, Encoding, Tokenizer
from bert_jax.errors import DataError, located
from bert_jax.files import parsing, read_text

MAX_WORD_LENGTH = 100
"""Hugging Face's limit, in characters. Google's TensorFlow 1 code has 200."""


@dataclass(frozen=True, kw_only=True)
class WordPiece(Tokenizer):
    """A WordPiece tokenizer: greedy, longest match first. Pieces within a word start with `##`."""

    pieces: tuple[str, ...]
    lower_case: bool
    """Whether to lower-case the text."""
    strip_accents: bool | None = None
    """Whether to remove accents. None: as `lower_case`; True and False become None if equal."""
    max_word_length: int = MAX_WORD_LENGTH
    """Maximum length of a word, in characters. A longer word becomes [UNK]."""

    def __post_init__(self):
        if self.strip_accents == self.lower_case:
            object.__setattr__(self, "strip_accents", None)  # equal tokenizers, equal fingerprints
        if len(self._ids) < len(self.pieces):
            first, piece = next((i, p) for i, p in enumerate(self.pieces) if self._ids[p] != i)
            raise DataError(
                f"vocabulary holds {piece!r} at ids {first} and {self._ids[piece]}; "
                "accepted: distinct pieces"
            )
        with parsing("vocabulary", accepted="pieces that UTF-8 can hold"):
            "".join(self.pieces).encode("utf-8")  # JSON can hold half of a surrogate pair
        missing = [piece for piece in SPECIAL_PIECES if piece not in self._ids]
        if missing:
            raise DataError(
                f"vocabulary of {len(self.pieces)} pieces lacks {', '.join(missing)}; "
                f"accepted: a vocabulary that holds {', '.join(SPECIAL_PIECES)}"
            )

    @classmethod
    def from_vocabulary_file(
        cls,
        path: str | Path,
        *,
        lower_case: bool,
        strip_accents: bool | None = None,
        max_word_length: int = MAX_WORD_LENGTH,
    ) -> "WordPiece":
        """Reads a `vocab.txt` with a piece on each line. The line number, from 0, is the id.

        The last of equal lines is the piece, as in the code of Google and Hugging Face. The others
        get a name with a space, which no word contains.
        """
        lines = read_text(Path(path)).replace("\r\n", "\n").removesuffix("\n").split("\n")
        ids = {line: i for i, line in enumerate(lines)}
        with located(path):
            return cls(
                pieces=tuple(
                    line if ids[line] == i else f"[unused line {i + 1}]"
                    for i, line in enumerate(lines)
                ),
                lower_case=lower_case,
                strip_accents=strip_accents,
                max_word_length=max_word_length,
            )

    def encode(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._encode_word, words.split_whitespace(text))))

    def encode_with_offsets(self, text: str) -> Encoding:
        ids, offsets = [], []
        for first, word in words.locate_whitespace_split(text):
            word_ids, spans = self._encode_aligned_word(word)
            ids += word_ids
            offsets += [(first + start, first + end) for start, end in spans]
        return Encoding(ids, offsets)

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.pieces[i] for i in ids).replace(" ##", "")

    def to_json(self) -> dict:
        return {
            "format_version": FORMAT_VERSION,
            "kind": "wordpiece",
            "lower_case": self.lower_case,
            **({} if self.strip_accents is None else {"strip_accents": self.strip_accents}),
            "max_word_length": self.max_word_length,
            "pieces": list(self.pieces),
        }

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.pieces)}

    @cached_property
    def special_ids(self) -> dict[str, int]:
        return {piece: self._ids[piece] for piece in SPECIAL_PIECES}

    @cached_property
    def word_starts(self) -> Bool[np.ndarray, "vocab"]:
        starts = np.array([not piece.startswith("##") for piece in self.pieces])
        starts.flags.writeable = False
        return starts

    @property
    def _normalization(self) -> dict:
        return {"lower_case": self.lower_case, "strip_accents": self.strip_accents}

    @cached_property
    def _longest_piece(self) -> int:
        return max(map(len, self.pieces))

    @cached_property
    def _encode_word(self) -> Callable[[str], tuple[int, ...]]:
        """Returns a function that converts a text without spaces to ids and caches its results."""

        def encode_word(word: str) -> tuple[int, ...]:
            tokens = words.split_word(word, **self._normalization)
            return tuple(chain.from_iterable(map(self._match_longest, tokens)))

        return words.RecentWords(encode_word).__getitem__

    @cached_property
    def _encode_aligned_word(self) -> Callable[[str], Encoding]:
        """Returns a function like `_encode_word` that also gives the offsets of the ids."""

        def encode_aligned_word(word: str) -> Encoding:
            ids, offsets = [], []
            for token in words.split_aligned_word(word, **self._normalization):
                first = 0
                for i in self._match_longest("".join(c for c, _ in token)):
                    length = len(self.pieces[i]) - (len("##") if first else 0)
                    last = len(token) if i == self.unk_id else first + length
                    origins = [origin for _, origin in token[first:last]]
                    ids.append(i)
                    offsets.append((min(origins), max(origins) + 1))
                    first = last
            return Encoding(ids, offsets)

        return words.RecentWords(encode_aligned_word).__getitem__

    def _match_longest(self, token: str) -> list[int]:
        if len(token) > self.max_word_length:
            return [self.unk_id]
        ids, start, prefix = [], 0, ""
        while start < len(token):
            end = min(len(token), start + self._longest_piece)
            while end > start and prefix + token[start:end] not in self._ids:
                end -= 1
            if end == start:
                return [self.unk_id]
            ids.append(self._ids[prefix + token[start:end]])
            start, prefix = end, "##"
        return ids
