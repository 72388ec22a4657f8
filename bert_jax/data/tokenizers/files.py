"""Text <-> token ids: what is asked of a tokenizer, and the files that hold one."""

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

    def encode_continuation(self, text: str) -> list[int]:
        """Ids of a text right after another piece, [MASK] for one, without a space between.

        WordPiece takes it for the start of a word all the same, as BERT does.
        """
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
    if isinstance(description.get("model"), dict):
        raise DataError("is Hugging Face's; accepted: what bert_jax.convert writes of it")
    if (version := description.get("format_version")) != FORMAT_VERSION:
        raise DataError(f"tokenizer format_version is {version!r}; accepted: {FORMAT_VERSION}")
    if (kind := description.get("kind")) not in (kinds := ("wordpiece", "sentencepiece")):
        raise DataError(f"tokenizer kind is {kind!r}; accepted: {kinds[0]!r} or {kinds[1]!r}")
    from_json = _wordpiece_from_json if kind == "wordpiece" else SentencePiece.from_json
    return from_json(description)


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
    """Write `tokenizer.json`, and for other tools `vocab.txt` (one piece a line) or `spiece.model`.

    The last, as it is called beside published weights, is SentencePiece's own format.
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
    """Returns what a file holds; raises DataError where that is no JSON object."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno} is not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; accepted: a JSON object")
    return value
