"""The base class of the tokenizers."""

import hashlib
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from bert_jax.data.tokenizers.words import is_unspaced

FORMAT_VERSION = 1
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SURROGATES = {code: "\ufffd" for code in range(0xD800, 0xE000)}
"""Table for `str.translate`: libraries in other languages than Python refuse lone surrogates."""


class Encoding(NamedTuple):
    """The ids of a text, and for each id the (start, end) of its characters in the text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Tokenizer(ABC):
    """Converts text to ids of vocabulary pieces and back. Tokenizers are immutable."""

    pieces: tuple[str, ...]
    """The piece of each id."""
    special_ids: Mapping[str, int]
    """The id of each of `SPECIAL_PIECES`."""
    word_starts: Bool[np.ndarray, "vocab"]
    """True for the ids of special pieces and of pieces that start a word. Read-only."""

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def pad_id(self) -> int:
        return self.special_ids["[PAD]"]

    @property
    def unk_id(self) -> int:
        return self.special_ids["[UNK]"]

    @property
    def cls_id(self) -> int:
        return self.special_ids["[CLS]"]

    @property
    def sep_id(self) -> int:
        return self.special_ids["[SEP]"]

    @property
    def mask_id(self) -> int:
        return self.special_ids["[MASK]"]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text. `[MASK]` or `[SEP]` in the text is ordinary text."""

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the ids of a text that follows another piece, such as [MASK], without a space.

        WordPiece still treats the text as the start of a word, as BERT does.
        """
        return self.encode(text)

    @abstractmethod
    def encode_with_offsets(self, text: str) -> Encoding:
        """Returns the ids of `encode`, and for each id the (start, end) of its piece in the text.

        The piece is `text[start:end]` after cleaning, such as lower-casing. A removed character,
        such as a separate accent, is in this range only if it stands within the piece. If a
        character becomes several pieces, each has the range of the character. [UNK] has the range
        of its whole word.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Returns readable text, including special pieces."""

    @abstractmethod
    def to_json(self) -> dict:
        """Returns a description from which `tokenizer_from_json` rebuilds the tokenizer."""

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the canonical `to_json` in hexadecimal."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def __getstate__(self) -> dict:
        # The caches cannot be pickled and are soon filled again.
        return {name: getattr(self, name) for name in vars(type(self))["__dataclass_fields__"]}


def starts_word(text: str) -> bool:
    """Returns whether the text of a piece starts a word.

    A word begins at a space, a punctuation mark or a symbol. In scripts that put no space between
    words, each piece is a word.
    """
    first = text[:1]
    if not first or first.isspace() or unicodedata.category(first)[0] in "PS":
        return True
    return is_unspaced(first)
