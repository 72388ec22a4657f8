"""Reads the tokenizer of a Hugging Face directory. Only BERT's WordPiece is accepted.

Reference: transformers 5.23.0.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from bert_jax.config.bounds import PositiveInt
from bert_jax.config.migration import value_at
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.data.tokenizers.wordpiece import MAX_WORD_LENGTH, SPECIAL_PIECES, WordPiece
from bert_jax.errors import DataError
from bert_jax.files import check_json, read_json
from bert_jax.interop.source import decide_casing

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


def read_tokenizer(
    directory: str | Path, *, lower_case: bool | None = None
) -> tuple[WordPiece, str]:
    """Reads the WordPiece tokenizer in a directory of Hugging Face, and says what it lower-cases.

    The pieces come from `tokenizer.json`, or from `vocab.txt` if there is no `tokenizer.json`.
    `tokenizer.json` and `do_lower_case` in `tokenizer_config.json` say whether text is lower-cased,
    and must agree. If both are missing, `decide_casing` decides. `lower_case` replaces all of them.
    `strip_accents` may be in both files too. If it is null, accents follow lower-casing.

    Raises:
      DataError: a file is missing or malformed, or has a setting that `WordPiece` does not have.
    """
    config_path = Path(directory) / "tokenizer_config.json"
    path = Path(directory) / "tokenizer.json"
    config = read_json(config_path, _Config) if config_path.exists() else {}
    description = read_json(path) if path.exists() else {}
    vocabulary = Path(directory) / "vocab.txt"
    reason = "as the tokenizer's files say"
    if lower_case is not None:
        reason = "as given"
        config["do_lower_case"] = lower_case
        if isinstance(description.get("normalizer"), dict):
            description["normalizer"]["lowercase"] = lower_case
    lower_case = config.get("do_lower_case")
    if lower_case is None and description:
        lower_case = value_at(description, "normalizer.lowercase")
    elif lower_case is None:
        cased = WordPiece.from_vocabulary_file(vocabulary, lower_case=False)
        lower_case, reason = decide_casing(cased.pieces, None)
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
    return tokenizer, f"lower_case {lower_case}, {reason}"


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


def tokenizer_json(tokenizer: Tokenizer, description: dict) -> dict[str, Any]:
    """Returns a tokenizer.json with the templates [CLS] A [SEP] and [CLS] A [SEP] B [SEP]."""
    ids = {piece: i for i, piece in enumerate(tokenizer.pieces)}

    def special(piece: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": piece, "type_id": segment}}

    def sequence(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": piece, **flags, "special": True}
            for i, piece in sorted((ids[piece], piece) for piece in SPECIAL_PIECES)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": description.get("strip_accents"),
            "lowercase": description["lower_case"],
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, sequence("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                piece: {"id": piece, "ids": [ids[piece]], "tokens": [piece]}
                for piece in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": description["max_word_length"],
            "vocab": ids,
        },
    }
