"""Stores tokenizers in files."""

import json
from pathlib import Path
from typing import Any, TypedDict

from msgspec import UNSET, Struct, UnsetType

from bert_jax.config.paths import open_path
from bert_jax.data.tokenizers.base import FORMAT_VERSION, Tokenizer
from bert_jax.data.tokenizers.huggingface import HuggingFace
from bert_jax.data.tokenizers.sentencepiece import SentencePiece
from bert_jax.data.tokenizers.wordpiece import WordPiece
from bert_jax.errors import DataError, located
from bert_jax.files import check_json, read_json, write_atomically


class _HuggingFaceDescription(TypedDict):
    tokenizer: dict[str, Any]


class _WordPieceDescription(Struct, forbid_unknown_fields=True):
    format_version: int
    kind: str
    lower_case: bool
    max_word_length: int
    pieces: list[str]
    strip_accents: bool | UnsetType = UNSET


def tokenizer_from_json(description: dict) -> Tokenizer:
    """Rebuilds a tokenizer. Raises DataError if `description` is not the output of a `to_json`."""
    if isinstance(description.get("model"), dict):
        raise DataError(
            "this is Hugging Face's format; accepted: the output of bert_jax.convert, or the file "
            "as data.tokenizer=file:tokenizer.json"
        )
    if (version := description.get("format_version")) != FORMAT_VERSION:
        raise DataError(f"tokenizer format_version is {version!r:.60}; accepted: {FORMAT_VERSION}")
    if (kind := description.get("kind")) not in list(_KINDS):  # it may be of any type
        raise DataError(f"tokenizer kind is {kind!r:.60}; accepted: {', '.join(_KINDS)}")
    return _KINDS[kind](description)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a tokenizer that `save_tokenizer` wrote.

    Args:
      path: the directory, or the `tokenizer.json` in it.
    """
    path = open_path(path, name="the directory of a tokenizer")
    if path.is_dir():
        path = path / "tokenizer.json"
    description = read_json(path)
    with located(path):
        return tokenizer_from_json(description)


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Writes `tokenizer.json`, and a vocabulary file for other tools.

    The vocabulary file of WordPiece is `vocab.txt`, with a piece on each line. The file of
    SentencePiece is `spiece.model`, in the format of the library. Other kinds need none.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, SentencePiece):
        write_atomically(directory / "spiece.model", tokenizer.model)
    elif isinstance(tokenizer, WordPiece):
        pieces = "".join(f"{piece}\n" for piece in tokenizer.pieces)
        write_atomically(directory / "vocab.txt", pieces)
    description = json.dumps(tokenizer.to_json(), ensure_ascii=False, indent=1)
    write_atomically(directory / "tokenizer.json", description + "\n")


def _huggingface_from_json(description: dict) -> HuggingFace:
    check_json(description, _HuggingFaceDescription, place="tokenizer")
    return HuggingFace.from_content(description["tokenizer"])


def _wordpiece_from_json(description: dict) -> WordPiece:
    check_json(description, _WordPieceDescription, place="tokenizer")
    return WordPiece(
        pieces=tuple(description["pieces"]),
        lower_case=description["lower_case"],
        strip_accents=description.get("strip_accents"),
        max_word_length=description["max_word_length"],
    )


_KINDS = {
    "wordpiece": _wordpiece_from_json,
    "sentencepiece": SentencePiece.from_json,
    "huggingface": _huggingface_from_json,
}
