"""The interface of tokenizers, and the files that store them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from bert_jax.data.tokenizers.sentencepiece import SentencePiece
from bert_jax.data.tokenizers.wordpiece import FORMAT_VERSION, Encoding, WordPiece, read_text
from bert_jax.errors import DataError
from bert_jax.files import write_atomically


class Tokenizer(Protocol):
    """The interface of a tokenizer. Tokenizers are immutable."""

    @property
    def pieces(self) -> tuple[str, ...]:
        """The piece of each id."""
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
        """True for ids of special pieces and of pieces that start a word. Read-only."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text. The name of a special piece in the text is ordinary text."""
        ...

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the ids of a text that follows another piece, such as [MASK], without a space.

        WordPiece still treats the text as the start of a word, as BERT does.
        """
        ...

    def encode_with_offsets(self, text: str) -> Encoding:
        """Returns the ids of `encode`, and for each id its place in the original text.

        `text[start:end]`, cleaned like the whole text, gives the piece. A removed character, such
        as a separate accent, belongs to a piece only if it lies within the piece. If a character
        gives several pieces, it belongs to each of them. [UNK] covers its whole word.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns readable text, including special pieces."""
        ...

    def to_json(self) -> dict:
        """Returns a description from which `tokenizer_from_json` rebuilds the tokenizer."""
        ...

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the canonical `to_json` in hexadecimal."""
        ...


def tokenizer_from_json(description: dict) -> Tokenizer:
    """Rebuilds a tokenizer from its `to_json`. Raises DataError for any other description."""
    if isinstance(description.get("model"), dict):
        raise DataError("is Hugging Face's format; accepted: the output of bert_jax.convert")
    if (version := description.get("format_version")) != FORMAT_VERSION:
        raise DataError(f"tokenizer format_version is {version!r}; accepted: {FORMAT_VERSION}")
    if (kind := description.get("kind")) not in (kinds := ("wordpiece", "sentencepiece")):
        raise DataError(f"tokenizer kind is {kind!r}; accepted: {kinds[0]!r} or {kinds[1]!r}")
    from_json = _wordpiece_from_json if kind == "wordpiece" else SentencePiece.from_json
    return from_json(description)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Reads a tokenizer that `save_tokenizer` wrote.

    Args:
      path: the directory, or the `tokenizer.json` in it.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "tokenizer.json"
    description = read_json_object(path)
    try:
        return tokenizer_from_json(description)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Writes `tokenizer.json`, and a file for other tools.

    The other file is `vocab.txt` for WordPiece, with a piece on each line, or `spiece.model` in
    the format of SentencePiece.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, SentencePiece):
        write_atomically(directory / "spiece.model", tokenizer.model)
    else:
        pieces = "".join(f"{piece}\n" for piece in tokenizer.pieces)
        write_atomically(directory / "vocab.txt", pieces)
    description = json.dumps(tokenizer.to_json(), ensure_ascii=False, indent=1)
    write_atomically(directory / "tokenizer.json", description + "\n")


def _wordpiece_from_json(description: dict) -> WordPiece:
    fields = {name: description[name] for name in description.keys() - {"format_version", "kind"}}
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


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file. Raises DataError if the file holds anything else."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno} is not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; accepted: a JSON object")
    return value
