"""Normalizes text and divides it into pieces, with a model file of the SentencePiece library.

Reference: Kudo and Richardson 2018. ALBERT and T5 also use the model files of this library.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Bool

from bert_jax.data.tokenizers.base import (
    FORMAT_VERSION,
    SPECIAL_PIECES,
    SURROGATES,
    Encoding,
    Tokenizer,
    starts_word,
)
from bert_jax.errors import DataError, located
from bert_jax.files import parsing, read_bytes

SPACE = "▁"
"""The character that stands for a space. A piece that begins with it begins a word."""


@dataclass(frozen=True, kw_only=True)
class SentencePiece(Tokenizer):
    """A SentencePiece tokenizer, whose control symbols are [PAD], [CLS], [SEP] and [MASK].

    Control symbols may be named `[CLS]` or `<cls>`. The unknown piece may have any name and
    counts as [UNK]. A lone surrogate is encoded as U+FFFD.
    """

    model: bytes = field(repr=False)

    def __post_init__(self):
        with parsing(f"a model of {len(self.model)} bytes", accepted="a whole .model file"):
            _ = self.special_ids, self.pieces, self.lower_case  # read from the model
        for piece in SPECIAL_PIECES:
            i = self.special_ids[piece]
            if piece != "[UNK]" and not self._processor.is_control(i):
                raise DataError(
                    f"piece {self._processor.id_to_piece(i)!r} is no control symbol, so text could "
                    "contain it; accepted: a model trained with it in control_symbols"
                )

    @classmethod
    def from_model_file(cls, path: str | Path) -> "SentencePiece":
        """Reads a `.model` file of the library."""
        model = read_bytes(Path(path))
        with located(path):
            return cls(model=model)

    @classmethod
    def from_json(cls, description: dict) -> "SentencePiece":
        """Rebuilds a tokenizer. Raises DataError if a field differs from `to_json` of the model."""
        try:
            model = base64.b64decode(description["model"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise DataError("tokenizer model is not base64; accepted: to_json's output") from error
        tokenizer = cls(model=model)
        expected = tokenizer.to_json()
        for name in sorted(description.keys() | expected.keys()):
            found, value = description.get(name), expected.get(name)
            if found != value:
                raise DataError(
                    f"tokenizer {name} is {found!r:.60}; accepted: its model's, {value!r:.60}"
                )
        return tokenizer

    @property
    def lower_case(self) -> bool:
        """Whether the model's normalizer lower-cases text."""
        return self._processor.normalize("A").endswith("a")

    def encode(self, text: str) -> list[int]:
        try:
            return self._processor.encode(text)
        except RuntimeError:
            return self._processor.encode(text.translate(SURROGATES))

    def encode_continuation(self, text: str) -> list[int]:
        ids = self.encode(text)
        if not ids or text[0].isspace() or not self.pieces[ids[0]].startswith(SPACE):
            return ids
        # The model adds a space before every text.
        rest = self.pieces[ids[0]].removeprefix(SPACE)
        if not rest:
            return ids[1:]
        within = self._processor.piece_to_id(rest)
        return ids if within == self.unk_id else [within, *ids[1:]]

    def encode_with_offsets(self, text: str) -> Encoding:
        found = self._processor.encode_as_offset_mapping(text.translate(SURROGATES))
        offsets = []
        for piece, (start, end) in zip(found["pieces"], found["offsets"], strict=True):
            if start == end and piece != SPACE:
                end += 1  # the next piece comes from the same character
            while start < end and text[start].isspace():
                start += 1
            offsets.append((start, end))
        return Encoding(found["ids"], offsets)

    def decode(self, ids: Sequence[int]) -> str:
        names = {i: piece for piece, i in self.special_ids.items()}
        parts = []
        for is_special, group in groupby(map(int, ids), key=names.__contains__):
            run = list(group)
            parts += [names[i] for i in run] if is_special else [self._processor.decode(run)]
        return " ".join(parts)

    def to_json(self) -> dict:
        return {
            "format_version": FORMAT_VERSION,
            "kind": "sentencepiece",
            "lower_case": self.lower_case,
            "model": base64.b64encode(self.model).decode("ascii"),
        }

    def score(self, i: int) -> float:
        """Returns the score of a piece, which is the logarithm of its probability."""
        return self._processor.get_score(i)

    @cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        processor = sentencepiece.SentencePieceProcessor()
        processor.load_from_serialized_proto(self.model)
        return processor

    @cached_property
    def special_ids(self) -> dict[str, int]:
        processor = self._processor
        ids = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
        found = {"[UNK]": processor.unk_id()}
        for piece in SPECIAL_PIECES:
            for name in (piece, f"<{piece[1:-1].lower()}>"):
                if name in ids:
                    found.setdefault(piece, ids[name])
        missing = [piece for piece in SPECIAL_PIECES if piece not in found]
        if missing:
            raise DataError(
                f"model of {len(ids)} pieces lacks {', '.join(missing)}; accepted: control symbols "
                "[PAD], [CLS], [SEP] and [MASK], or <pad>, <cls>, <sep> and <mask>"
            )
        return found

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        processor = self._processor
        pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        for piece, i in self.special_ids.items():
            pieces[i] = piece
        return tuple(pieces)

    @cached_property
    def word_starts(self) -> Bool[np.ndarray, "vocab"]:
        special = set(self.special_ids.values())
        starts = [
            i in special
            or (not self._processor.is_byte(i) and starts_word(piece.replace(SPACE, " ")))
            for i, piece in enumerate(self.pieces)
        ]
        array = np.array(starts)
        array.flags.writeable = False
        return array
