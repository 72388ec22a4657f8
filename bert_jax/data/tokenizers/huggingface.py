"""Runs a tokenizer of the `tokenizers` library: byte-level BPE, Unigram, WordPiece and others.

References:
  https://huggingface.co/docs/tokenizers
  Sennrich et al. 2016; Radford et al. 2019 (byte-level BPE)
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from bert_jax.data.tokenizers.base import (
    FORMAT_VERSION,
    SURROGATES,
    Encoding,
    Tokenizer,
    starts_word,
)
from bert_jax.errors import DataError, located, needing
from bert_jax.files import parsing, read_json

SPECIAL_NAMES = {
    "[PAD]": ("[PAD]", "<pad>"),
    "[UNK]": ("[UNK]", "<unk>"),
    "[CLS]": ("[CLS]", "<cls>", "<s>"),
    "[SEP]": ("[SEP]", "<sep>", "</s>"),
    "[MASK]": ("[MASK]", "<mask>"),
}
"""Names of the special pieces in a tokenizer.json. The first name that exists is the piece."""

_NO_NORMALIZER = '{"type": "Sequence", "normalizers": []}'
_HIDDEN = "\uffff"  # before a special piece, so that no text gives it


@dataclass(frozen=True, kw_only=True)
class HuggingFace(Tokenizer):
    """A tokenizer that a `tokenizer.json` describes.

    Its template, truncation and padding are not used: rows are laid out as in pretraining. Tokens
    that were added to the vocabulary are found in the text, the special pieces are not.
    """

    description: str = field(repr=False)
    """The content of the file, as JSON with sorted keys."""

    def __post_init__(self):
        with parsing("a tokenizer.json", accepted="a file of the tokenizers library"):
            _ = self._library, self.lower_case, self.encode_with_offsets("a 中")

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "HuggingFace":
        """Returns the tokenizer for the content of a `tokenizer.json`.

        Raises:
          DataError: the library cannot read it, or it lacks a special piece.
        """
        unused = dict.fromkeys(("truncation", "padding", "post_processor"))
        return cls(description=json.dumps(content | unused, sort_keys=True))

    @classmethod
    def from_file(cls, path: str | Path) -> "HuggingFace":
        """Reads a `tokenizer.json` of the library."""
        content = read_json(Path(path))
        if "kind" in content:
            raise DataError(
                f"{path} is a tokenizer of bert_jax; accepted: a tokenizer.json of the tokenizers "
                "library, such as that of convert --to=huggingface"
            )
        with located(path):
            return cls.from_content(content)

    @property
    def lower_case(self) -> bool:
        """Whether the normalizer lower-cases text."""
        normalizer = self._library.normalizer
        return normalizer is not None and normalizer.normalize_str("A").endswith("a")

    def encode(self, text: str) -> list[int]:
        return _encode(self._library, text).ids

    def encode_continuation(self, text: str) -> list[int]:
        # A normalizer may strip the space of the text itself, which the library then adds.
        library = self._library if text[:1].isspace() else self._continuing
        return _encode(library, text).ids

    def encode_with_offsets(self, text: str) -> Encoding:
        found, offsets = _encode(self._library, text), []
        for start, end in found.offsets:
            while start < end and text[start].isspace():
                start += 1
            offsets.append((start, end))
        return Encoding(found.ids, offsets)

    def decode(self, ids: Sequence[int]) -> str:
        names, parts = {i: piece for piece, i in self.special_ids.items()}, []
        for is_special, group in groupby(map(int, ids), key=names.__contains__):
            run = list(group)
            parts += [names[i] for i in run] if is_special else [self._library.decode(run).strip()]
        return " ".join(parts)

    def to_json(self) -> dict:
        return {
            "format_version": FORMAT_VERSION,
            "kind": "huggingface",
            "lower_case": self.lower_case,
            "tokenizer": json.loads(self.description),
        }

    @cached_property
    def special_names(self) -> dict[str, str]:
        """The name of each of `SPECIAL_PIECES` in the file."""
        content = json.loads(self.description)
        vocab = content["model"]["vocab"]
        names = set(vocab if isinstance(vocab, dict) else (piece for piece, _ in vocab))
        names |= {token["content"] for token in content.get("added_tokens") or ()}
        found = {p: [one for one in given if one in names] for p, given in SPECIAL_NAMES.items()}
        if missing := [" or ".join(SPECIAL_NAMES[piece]) for piece in found if not found[piece]]:
            raise DataError(
                f"its vocabulary lacks {', '.join(missing)}; accepted: a tokenizer that was "
                "trained with these special tokens"
            )
        return {piece: given[0] for piece, given in found.items()}

    @cached_property
    def _library(self) -> Any:
        return self._open(json.loads(self.description))

    @cached_property
    def _continuing(self) -> Any:
        """The library's tokenizer, without the space that it adds before every text."""
        content = json.loads(self.description)
        said = json.dumps({name: content.get(name) for name in ("normalizer", "pre_tokenizer")})
        said = re.sub(r'"add_prefix_space": true', '"add_prefix_space": false', said)
        said = re.sub(r'"prepend_scheme": "\w+"', '"prepend_scheme": "never"', said)
        said = re.sub(r'{"prepend": "[^"]*", "type": "Prepend"}', _NO_NORMALIZER, said)
        return self._open(content | json.loads(said))

    def _open(self, content: dict[str, Any]) -> Any:
        with needing("a tokenizer.json", "tokenizers"):
            import tokenizers
        names = set(self.special_names.values())
        model, added = content["model"], content.get("added_tokens") or []
        if model.get("dropout"):
            raise DataError(f"model.dropout is {model['dropout']!r:.60}; accepted: null")

        def hide(name: str) -> str:
            return _HIDDEN + name if name in names else name

        if isinstance(model["vocab"], dict):
            model["vocab"] = {hide(piece): i for piece, i in model["vocab"].items()}
        else:
            model["vocab"] = [[hide(piece), score] for piece, score in model["vocab"]]
        unknown = self.special_names["[UNK]"]
        if model.get("unk_token") not in (None, unknown):
            raise DataError(f"model.unk_token is {model['unk_token']!r:.60}; accepted: {unknown!r}")
        if model.get("unk_token"):
            model["unk_token"] = hide(unknown)
        for token in added:
            token |= {"content": hide(token["content"]), "special": False}
        with _panics():
            library = tokenizers.Tokenizer.from_str(json.dumps(content))
        for token in added:
            if (i := library.token_to_id(token["content"])) != token["id"]:
                raise DataError(
                    f"added token {token['content']!r:.60} has id {token['id']!s:.20}; accepted: "
                    f"{i}, the next id"
                )
        return library

    @cached_property
    def special_ids(self) -> dict[str, int]:
        names = self.special_names.items()
        return {piece: self._library.token_to_id(_HIDDEN + name) for piece, name in names}

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        ids = self._library.get_vocab(with_added_tokens=True)
        pieces = [f"[unused id {i}]" for i in range(max(ids.values()) + 1)]
        for piece, i in (*ids.items(), *self.special_ids.items()):
            pieces[i] = piece
        return tuple(pieces)

    @cached_property
    def word_starts(self) -> Bool[np.ndarray, "vocab"]:
        """True for ids of special pieces and of pieces that start a word. Read-only.

        The decoder tells whether a piece stands apart from a letter before it; see `starts_word`.

        Raises:
          DataError: the file has no decoder, or a piece does not tell whether it starts a word.
        """
        content, library = json.loads(self.description), self._library
        if content.get("decoder") is None or content["model"].get("end_of_word_suffix"):
            raise DataError(
                "the pieces of this tokenizer do not tell where words start; accepted: "
                "data.masking.unit=token"
            )
        letter = self.encode("a")
        length = len(library.decode(letter))
        texts = [library.decode([*letter, i])[length:] for i in range(self.vocab_size)]
        # A piece that is a part of a character is decoded as U+FFFD.
        array = np.array([starts_word(text) and not text.startswith("\ufffd") for text in texts])
        array[list(self.special_ids.values())] = True
        array.flags.writeable = False
        return array


def _encode(library: Any, text: str) -> Any:
    with _panics():
        return library.encode(text.translate(SURROGATES), add_special_tokens=False)


@contextlib.contextmanager
def _panics() -> Iterator[None]:
    """Turns a panic of the library, which is no Exception, into a DataError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())
        raise DataError(f"the library ends with {said:.100}; accepted: a whole file") from error
