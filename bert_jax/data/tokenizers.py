"""Text <-> token ids: what is asked of a tokenizer, and the files that hold one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from bert_jax.data.wordpiece import (
    FORMAT_VERSION,
    Encoding,
    WordPiece,
    read_text,
)
from bert_jax.errors import DataError
from bert_jax.files import write_atomically


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

    def encode_with_offsets(self, text: str) -> Encoding:
        """The same ids, and what part of `text`, as it was given, each of them stands for.

        `text[start:end]` gives the piece when it is cleaned as the text is. An accent that is a
        character of its own, or another that vanishes, belongs to no piece unless it is within
        one; a character that gives several pieces belongs to each; [UNK] covers its word.
        """
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


def tokenizer_from_json(description: dict) -> Tokenizer:
    """Rebuild a tokenizer from its `to_json`; raises DataError for anything else."""
    fields = dict(description)
    expected = {"format_version": FORMAT_VERSION, "kind": "wordpiece"}
    if isinstance(fields.get("model"), dict):
        raise DataError("is Hugging Face's; accepted: what bert_jax.convert writes of it")
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
    description = read_json_object(path)
    try:
        return tokenizer_from_json(description)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def save_tokenizer(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Write `tokenizer.json`, and for other tools `vocab.txt` (one piece a line)."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "vocab.txt", "".join(f"{piece}\n" for piece in tokenizer.pieces))
    description = json.dumps(tokenizer.to_json(), ensure_ascii=False, indent=1)
    write_atomically(directory / "tokenizer.json", description + "\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns what a file holds; raises DataError where that is no JSON object."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno} is not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; accepted: a JSON object")
    return value
