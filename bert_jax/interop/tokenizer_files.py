"""Reads the tokenizer of a Hugging Face directory. Only BERT's WordPiece is accepted.

Reference: transformers 5.23.0.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from bert_jax.config.bounds import PositiveInt
from bert_jax.config.migration import value_at
from bert_jax.data.tokenizers.wordpiece import MAX_WORD_LENGTH, SPECIAL_PIECES, WordPiece
from bert_jax.errors import DataError
from bert_jax.files import check_json, read_json
from bert_jax.interop.source import looks_lower_case

# Accepted values of Hugging Face's fields; None stands for a field that is absent or null.
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


class _Config(TypedDict, total=False):
    """Fields of tokenizer_config.json whose type is not checked with their value."""

    added_tokens_decoder: dict[str, dict[str, Any]] | None


class _Model(TypedDict):
    vocab: dict[str, int]
    max_input_chars_per_word: NotRequired[PositiveInt]


class _Description(TypedDict):
    """Fields of tokenizer.json whose type is not checked with their value."""

    model: _Model
    added_tokens: NotRequired[list[dict[str, Any]] | None]


def read_tokenizer(directory: str | Path) -> WordPiece:
    """Reads the WordPiece tokenizer in a directory of Hugging Face.

    The pieces come from `tokenizer.json`, or from `vocab.txt` if there is no `tokenizer.json`.
    `tokenizer.json` and `do_lower_case` in `tokenizer_config.json` say whether text is lower-cased,
    and must agree. If both are missing, a `vocab.txt` without capital letters means lower-casing.
    `strip_accents` may be in both files too. If it is null, accents follow lower-casing.

    Raises:
      DataError: a file is missing or malformed, or has a setting that `WordPiece` does not have.
    """
    config_path = Path(directory) / "tokenizer_config.json"
    path = Path(directory) / "tokenizer.json"
    config = read_json(config_path, _Config) if config_path.exists() else {}
    description = read_json(path) if path.exists() else {}
    vocabulary = Path(directory) / "vocab.txt"
    lower_case = config.get("do_lower_case")
    if lower_case is None and description:
        lower_case = value_at(description, "normalizer.lowercase")
    elif lower_case is None:
        cased = WordPiece.from_vocabulary_file(vocabulary, lower_case=False)
        lower_case = looks_lower_case(cased.pieces)
    if not isinstance(lower_case, bool):
        raise DataError(
            f"{config_path}: do_lower_case is {lower_case!r:.60}; accepted: true or false"
        )
    accepted = {**_FOLLOWED_CONFIG, "strip_accents": (None, True, False)}
    _check_fields(config, accepted, path=config_path)
    strip_accents = config.get("strip_accents")
    if strip_accents is None:
        strip_accents = value_at(description, "normalizer.strip_accents")
    if not description:
        tokenizer = WordPiece.from_vocabulary_file(
            vocabulary, lower_case=lower_case, strip_accents=strip_accents
        )
    else:
        accepted = {
            **_FOLLOWED_TOKENIZER,
            "normalizer.lowercase": (lower_case,),
            "normalizer.strip_accents": tuple(dict.fromkeys((None, strip_accents is True))),
        }
        _check_fields(description, accepted, path=path)
        check_json(description, _Description, place=path)
        tokenizer = _wordpiece_of_model(
            description["model"], lower_case=lower_case, strip_accents=strip_accents, path=path
        )
        added = [(value_at(token, "id"), token) for token in description.get("added_tokens") or []]
        _check_added_tokens(added, tokenizer, path=path)
    added = (config.get("added_tokens_decoder") or {}).items()
    _check_added_tokens(added, tokenizer, path=config_path)
    return tokenizer


def _wordpiece_of_model(
    model: dict[str, Any], *, lower_case: bool, strip_accents: bool | None, path: Path
) -> WordPiece:
    ids, limit = model["vocab"], model.get("max_input_chars_per_word", MAX_WORD_LENGTH)
    if sorted(ids.values()) != list(range(len(ids))):
        raise DataError(f"{path}: model.vocab skips or repeats ids; accepted: 0, 1, 2, ...")
    try:
        return WordPiece(
            pieces=tuple(sorted(ids, key=ids.__getitem__)),
            lower_case=lower_case,
            strip_accents=strip_accents,
            max_word_length=limit,
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _check_fields(
    description: Mapping[str, Any], accepted: Mapping[str, tuple], *, path: Path
) -> None:
    for name, values in accepted.items():
        found = value_at(description, name)
        # A special token may be an object, whose `content` is the token itself.
        if isinstance(found, dict):
            found = found.get("content")
        if found not in values:
            listed = " or ".join(json.dumps(value) for value in values)
            raise DataError(f"{path}: {name} is {json.dumps(found):.60}; accepted: {listed}")


def _check_added_tokens(
    added: Iterable[tuple[Any, Any]], tokenizer: WordPiece, *, path: Path
) -> None:
    """Raises DataError if an added token is not a special piece of the vocabulary."""
    for i, token in added:
        content = value_at(token, "content")
        known = content in tokenizer.pieces and str(tokenizer.pieces.index(content)) == str(i)
        if not known or value_at(token, "special") is not True:
            raise DataError(
                f"{path}: added token {content!r:.60} has id {i!s:.60}; accepted: special pieces "
                f"of the vocabulary of {tokenizer.vocab_size} pieces"
            )
