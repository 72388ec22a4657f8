"""Text <-> token ids: what is asked of a tokenizer, and the files that hold one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bert_jax.data.wordpiece import (
    FORMAT_VERSION,
    MAX_WORD_LENGTH,
    SPECIAL_PIECES,
    Encoding,
    WordPiece,
    read_text,
)
from bert_jax.errors import DataError
from bert_jax.files import write_atomically

# What Hugging Face's files may say, by field; None is a field that is absent or null.
_FOLLOWED_CONFIG = {
    "tokenizer_class": (None, "BertTokenizer", "BertTokenizerFast"),
    "tokenize_chinese_chars": (None, True),
    "do_basic_tokenize": (None, True),
    "never_split": (None, []),
} | {f"{piece[1:-1].lower()}_token": (None, piece) for piece in SPECIAL_PIECES}
_FOLLOWED_TOKENIZER = {
    "normalizer.type": ("BertNormalizer",),
    "normalizer.clean_text": (True,),
    "normalizer.handle_chinese_chars": (True,),
    "pre_tokenizer.type": ("BertPreTokenizer",),
    "model.type": ("WordPiece",),
    "model.unk_token": ("[UNK]",),
    "model.continuing_subword_prefix": ("##",),
}


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
    description = _read_json_object(path)
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


def wordpiece_from_huggingface(directory: str | Path) -> WordPiece:
    """Read the tokenizer of a Hugging Face directory: that of `BertTokenizer`.

    The pieces are those of `tokenizer.json`, or of `vocab.txt` if there is none; the case is what
    `tokenizer_config.json` says, else `tokenizer.json`. Where both say it, they must agree.

    Raises:
      DataError: a file is missing or malformed, or asks for what `WordPiece` does not do.
    """
    config_path = Path(directory) / "tokenizer_config.json"
    path = Path(directory) / "tokenizer.json"
    config = _read_json_object(config_path) if config_path.exists() else {}
    description = _read_json_object(path) if path.exists() else {}
    lower_case = config.get("do_lower_case")
    if lower_case is None:
        lower_case = _field(description, "normalizer.lowercase")
    if not isinstance(lower_case, bool):
        raise DataError(f"{config_path}: do_lower_case is {lower_case!r}; accepted: true or false")
    accepted = {**_FOLLOWED_CONFIG, "strip_accents": (None, lower_case)}
    _check_fields(config, accepted, path=config_path)
    if not description:
        tokenizer = WordPiece.from_vocabulary_file(
            Path(directory) / "vocab.txt", lower_case=lower_case
        )
    else:
        accepted = {
            **_FOLLOWED_TOKENIZER,
            "normalizer.lowercase": (lower_case,),
            "normalizer.strip_accents": (None, lower_case),
        }
        _check_fields(description, accepted, path=path)
        tokenizer = _wordpiece_of_model(description["model"], lower_case=lower_case, path=path)
        added = [(_field(token, "id"), token) for token in description.get("added_tokens") or []]
        _check_added_tokens(added, tokenizer, path=path)
    added = (config.get("added_tokens_decoder") or {}).items()
    _check_added_tokens(added, tokenizer, path=config_path)
    return tokenizer


def _wordpiece_of_model(model: dict[str, Any], *, lower_case: bool, path: Path) -> WordPiece:
    ids, limit = model.get("vocab"), model.get("max_input_chars_per_word", MAX_WORD_LENGTH)
    if type(limit) is not int:
        raise DataError(f"{path}: max_input_chars_per_word is {limit!r}; accepted: an integer")
    if not isinstance(ids, dict) or any(type(i) is not int for i in ids.values()):
        raise DataError(f"{path}: model.vocab is no table of ids; accepted: {{piece: id, ...}}")
    if sorted(ids.values()) != list(range(len(ids))):
        raise DataError(f"{path}: model.vocab skips or repeats ids; accepted: 0, 1, 2, ...")
    try:
        return WordPiece(
            pieces=tuple(sorted(ids, key=ids.__getitem__)),
            lower_case=lower_case,
            max_word_length=limit,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _check_fields(
    description: Mapping[str, Any], accepted: Mapping[str, tuple], *, path: Path
) -> None:
    for name, values in accepted.items():
        found = _field(description, name)
        # A special token may be an object of its own, which holds how it is matched in text.
        if isinstance(found, dict):
            found = found.get("content")
        if found not in values:
            listed = " or ".join(json.dumps(value) for value in values)
            raise DataError(f"{path}: {name} is {json.dumps(found)}; accepted: {listed}")


def _field(description: Any, name: str) -> Any:
    """What the dotted name leads to; None where it leads nowhere."""
    for key in name.split("."):
        description = description.get(key) if isinstance(description, dict) else None
    return description


def _check_added_tokens(
    added: Iterable[tuple[Any, Any]], tokenizer: WordPiece, *, path: Path
) -> None:
    """Special pieces of the vocabulary may be named; another would be cut out of the text whole."""
    for i, token in added:
        content = _field(token, "content")
        known = content in tokenizer.pieces and str(tokenizer.pieces.index(content)) == str(i)
        if not known or _field(token, "special") is not True:
            raise DataError(
                f"{path}: added token {content!r} has id {i}; accepted: special pieces of the "
                f"vocabulary, which has {tokenizer.vocab_size}"
            )


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno} is not JSON ({error.msg})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; accepted: a JSON object")
    return value
