"""Text <-> token ids: WordPiece with exactly the semantics of Google's BERT.

Reference: Devlin et al. 2018 and `tokenization.py` of google-research/bert.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Bool

from bert_jax.errors import DataError

FORMAT_VERSION = 1
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_LENGTH = 100
"""Hugging Face's limit; Google's TensorFlow 1 code has 200."""

_CACHED_WORDS = 2**18
# White space to str.split, but control characters, which vanish, to BERT.
_DROPPED_SPACES = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CJK_RANGES = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class Tokenizer(Protocol):
    """What pretraining asks of a tokenizer; values never change once it is built."""

    @property
    def pieces(self) -> tuple[str, ...]:
        """Piece of each id."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def unk_id(self) -> int: ...

    @property
    def cls_id(self) -> int: ...

    @property
    def sep_id(self) -> int: ...

    @property
    def mask_id(self) -> int: ...

    @property
    def word_starts(self) -> Bool[np.ndarray, "vocab"]:
        """True for the ids that start a word, special pieces among them; read-only."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of the text; a special piece spelled out in it is ordinary text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Readable text of the ids, special pieces included."""
        ...

    def to_json(self) -> dict:
        """What `tokenizer_from_json` rebuilds this tokenizer from."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of the canonical `to_json`, in hexadecimal."""
        ...


@dataclass(frozen=True, kw_only=True)
class WordPiece:
    """Greedy longest-match-first word pieces; a piece within a word starts with `##`."""

    pieces: tuple[str, ...]
    lower_case: bool
    """Lower-case the text and strip accents."""
    max_word_length: int = MAX_WORD_LENGTH
    """Characters; a longer word is [UNK]."""

    def __post_init__(self):
        if len(self._ids) < len(self.pieces):
            first, piece = next((i, p) for i, p in enumerate(self.pieces) if self._ids[p] != i)
            raise DataError(
                f"vocabulary holds {piece!r} at ids {first} and {self._ids[piece]}; "
                "accepted: distinct pieces"
            )
        missing = [piece for piece in SPECIAL_PIECES if piece not in self._ids]
        if missing:
            raise DataError(
                f"vocabulary of {len(self.pieces)} pieces lacks {', '.join(missing)}; "
                f"accepted: one that holds {', '.join(SPECIAL_PIECES)}"
            )

    @classmethod
    def from_vocabulary_file(
        cls, path: str | Path, *, lower_case: bool, max_word_length: int = MAX_WORD_LENGTH
    ) -> "WordPiece":
        """Read a `vocab.txt`: one piece a line, the line number from 0 is the id."""
        pieces = _read_text(Path(path)).removesuffix("\n").split("\n")
        try:
            return cls(
                pieces=tuple(piece.removesuffix("\r") for piece in pieces),
                lower_case=lower_case,
                max_word_length=max_word_length,
            )
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def pad_id(self) -> int:
        return self._ids["[PAD]"]

    @property
    def unk_id(self) -> int:
        return self._ids["[UNK]"]

    @property
    def cls_id(self) -> int:
        return self._ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        return self._ids["[SEP]"]

    @property
    def mask_id(self) -> int:
        return self._ids["[MASK]"]

    @property
    def word_starts(self) -> Bool[np.ndarray, "vocab"]:
        return self._word_starts

    def encode(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._encode_word, split_whitespace(text))))

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.pieces[i] for i in ids).replace(" ##", "")

    def to_json(self) -> dict:
        return {
            "format_version": FORMAT_VERSION,
            "kind": "wordpiece",
            "lower_case": self.lower_case,
            "max_word_length": self.max_word_length,
            "pieces": list(self.pieces),
        }

    def fingerprint(self) -> str:
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def __getstate__(self) -> dict:
        # Fields only: the caches cannot be pickled and are soon filled again.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self.pieces)}

    @cached_property
    def _word_starts(self) -> Bool[np.ndarray, "vocab"]:
        starts = np.array([not piece.startswith("##") for piece in self.pieces])
        starts.flags.writeable = False
        return starts

    @cached_property
    def _longest_piece(self) -> int:
        return max(map(len, self.pieces))

    @cached_property
    def _encode_word(self) -> Callable[[str], tuple[int, ...]]:
        """Ids of what stands between two spaces; most words of a text were seen before."""

        def encode_word(word: str) -> tuple[int, ...]:
            tokens = split_word(word, lower_case=self.lower_case)
            return tuple(chain.from_iterable(map(self._match_longest, tokens)))

        return lru_cache(_CACHED_WORDS)(encode_word)

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


def split_whitespace(text: str) -> list[str]:
    """First step of BERT's tokenization: what white space separates."""
    return _DROPPED_SPACES.sub("", text).split()


def split_word(word: str, *, lower_case: bool) -> list[str]:
    """Second step: clean one result of `split_whitespace`; split punctuation and CJK off."""
    if word.isascii() and word.isalnum():
        return [word.lower() if lower_case else word]
    tokens = []
    for token in "".join(map(_clean_character, word)).split():
        if lower_case:
            decomposed = unicodedata.normalize("NFD", token.lower())
            token = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        tokens += "".join(f" {c} " if _is_punctuation(c) else c for c in token).split()
    return tokens


def tokenizer_from_json(description: dict) -> Tokenizer:
    """Rebuild a tokenizer from its `to_json`; raises DataError for anything else."""
    fields = dict(description)
    expected = {"format_version": FORMAT_VERSION, "kind": "wordpiece"}
    for name, value in expected.items():
        if (found := fields.pop(name, None)) != value:
            raise DataError(f"tokenizer {name} is {found!r}; accepted: {value!r}")
    types = {"lower_case": bool, "max_word_length": int, "pieces": list}
    if fields.keys() != types.keys():
        raise DataError(f"tokenizer has fields {sorted(fields)}; accepted: {sorted(types)}")
    for name, kind in types.items():
        if type(fields[name]) is not kind:
            found = type(fields[name]).__name__
            raise DataError(f"tokenizer {name} is a {found}; accepted: a {kind.__name__}")
    for i, piece in enumerate(fields["pieces"]):
        if not isinstance(piece, str):
            raise DataError(f"tokenizer pieces[{i}] is {piece!r}; accepted: a string")
    return WordPiece(
        pieces=tuple(fields["pieces"]),
        lower_case=fields["lower_case"],
        max_word_length=fields["max_word_length"],
    )


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read what `save_tokenizer` wrote: `path` is its directory or the `tokenizer.json` in it."""
    path = Path(path)
    if path.is_dir():
        path = path / "tokenizer.json"
    text = _read_text(path)
    try:
        description = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno} is not JSON ({error.msg})") from error
    if not isinstance(description, dict):
        raise DataError(f"{path} holds a {type(description).__name__}; accepted: a JSON object")
    try:
        return tokenizer_from_json(description)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write `tokenizer.json`, and for other tools `vocab.txt` (one piece a line)."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _replace_text(directory / "vocab.txt", "".join(f"{piece}\n" for piece in tokenizer.pieces))
    description = json.dumps(tokenizer.to_json(), ensure_ascii=False, indent=1)
    _replace_text(directory / "tokenizer.json", description + "\n")


@cache
def _clean_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return " "
    if character == "\ufffd" or category in ("Cc", "Cf"):
        return ""
    if any(first <= ord(character) <= last for first, last in _CJK_RANGES):
        return f" {character} "
    return character


@cache
def _is_punctuation(character: str) -> bool:
    """Every ASCII symbol counts, also `$`, `+` and others that Unicode does not call so."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 at byte {error.start}") from error


def _replace_text(path: Path, text: str) -> None:
    """Write all of the text or leave what there was."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
