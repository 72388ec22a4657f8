"""Reads and writes the tokenizer of a Hugging Face directory.

References:
  transformers 5.23.0
  https://github.com/google/sentencepiece (sentencepiece_model.proto)
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from bert_jax.config.bounds import PositiveInt
from bert_jax.config.migration import value_at
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.data.tokenizers.huggingface import HuggingFace
from bert_jax.data.tokenizers.sentencepiece import SPACE, SentencePiece
from bert_jax.data.tokenizers.wordpiece import MAX_WORD_LENGTH, SPECIAL_PIECES, WordPiece
from bert_jax.errors import CheckpointError, DataError, located
from bert_jax.files import check_json, read_json, write_atomically, write_json
from bert_jax.interop.source import decide_casing
from bert_jax.interop.tensorflow import protobuf_fields

_NAMES = {f"{piece[1:-1].lower()}_token": piece for piece in SPECIAL_PIECES}
_CLASSES = ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
# Accepted values of Hugging Face's fields; None stands for a field that is absent or null.
_TOKENS = {name: (None, piece) for name, piece in _NAMES.items()}
_FOLLOWED_CONFIG = {
    "tokenizer_class": (None, *_CLASSES),
    "tokenize_chinese_chars": (None, True),
    "do_basic_tokenize": (None, True),
    "never_split": (None, []),
    "strip_accents": (None, True, False),
} | _TOKENS
# A tokenizer.json with other values is run by its library.
_WORDPIECE = {
    "normalizer.type": ("BertNormalizer",),
    "normalizer.clean_text": (True,),
    "normalizer.handle_chinese_chars": (True,),
    "pre_tokenizer.type": ("BertPreTokenizer",),
    "model.type": ("WordPiece",),
    "model.unk_token": ("[UNK]",),
    "model.continuing_subword_prefix": ("##",),
}
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


class _Token(TypedDict):
    id: int
    content: str


class _Config(TypedDict, total=False):
    """Fields of tokenizer_config.json whose type is not checked with their value."""

    added_tokens_decoder: dict[str, dict[str, Any]] | None
    additional_special_tokens: list[Any] | None


class _Description(TypedDict):
    """Fields of tokenizer.json that code reads."""

    model: dict[str, Any]
    added_tokens: NotRequired[list[_Token] | None]


class _WordPieceModel(TypedDict):
    vocab: dict[str, int]
    max_input_chars_per_word: NotRequired[PositiveInt]


class _WordPieceDescription(TypedDict):
    model: _WordPieceModel


def read_tokenizer(
    directory: str | Path, *, lower_case: bool | None = None
) -> tuple[Tokenizer, str]:
    """Reads the tokenizer in a directory of Hugging Face, and says whether it lower-cases.

    The tokenizer is that of `tokenizer.json`. If the file does not exist, it is the WordPiece of
    `vocab.txt`, with the tokens of `added_tokens.json`. BERT's own WordPiece is run by bert_jax,
    and any other tokenizer by the library `tokenizers`.

    `tokenizer.json` and `do_lower_case` in `tokenizer_config.json` say whether text is lower-cased,
    and must agree. If both are missing, `decide_casing` decides. `lower_case` replaces all of them.
    `strip_accents` may be in both files too. If it is null, accents follow lower-casing.

    Raises:
      DataError: a file is missing or malformed, or has a setting that is not followed.
    """
    directory = Path(directory)
    path, config_path = directory / "tokenizer.json", directory / "tokenizer_config.json"
    config = read_json(config_path, _Config) if config_path.exists() else {}
    description = read_json(path, _Description) if path.exists() else {}
    if description and not _is_wordpiece(description):
        tokenizer = HuggingFace.from_file(path)
        if lower_case not in (None, tokenizer.lower_case):
            raise DataError(f"{path}: lower_case is {lower_case}; accepted: as the file says")
        return tokenizer, f"lower_case {tokenizer.lower_case}, as the tokenizer's files say"
    reason = "as the tokenizer's files say"
    if lower_case is not None:
        reason, config["do_lower_case"] = "as given", lower_case
        if description:
            description["normalizer"]["lowercase"] = lower_case
    lower_case = config.get("do_lower_case")
    if lower_case is None and description:
        lower_case = value_at(description, "normalizer.lowercase")
    elif lower_case is None:
        cased = WordPiece.from_vocabulary_file(directory / "vocab.txt", lower_case=False)
        lower_case, reason = decide_casing(cased.pieces, None)
    if not isinstance(lower_case, bool):
        raise DataError(
            f"{config_path}: do_lower_case is {lower_case!r:.60}; accepted: true or false"
        )
    _check_fields(config, _FOLLOWED_CONFIG, path=config_path)
    strip_accents = config.get("strip_accents")
    if strip_accents is None:
        strip_accents = value_at(description, "normalizer.strip_accents")
    normalization = {"lower_case": lower_case, "strip_accents": strip_accents}
    if description:
        accepted = {
            "normalizer.lowercase": (lower_case,),
            "normalizer.strip_accents": tuple(dict.fromkeys((None, strip_accents is True))),
        }
        _check_fields(description, accepted, path=path)
        tokenizer = _wordpiece_of_model(description, path=path, **normalization)
    else:
        tokenizer = WordPiece.from_vocabulary_file(directory / "vocab.txt", **normalization)
    tokenizer = _with_added_tokens(tokenizer, directory, config)
    return tokenizer, f"lower_case {lower_case}, {reason}"


def _is_wordpiece(description: dict[str, Any]) -> bool:
    """Returns whether a tokenizer.json is BERT's WordPiece, without further tokens."""
    added = {token["content"] for token in description.get("added_tokens") or ()}
    return added <= set(SPECIAL_PIECES) and all(
        value_at(description, name) in values for name, values in _WORDPIECE.items()
    )


def _with_added_tokens(tokenizer: WordPiece, directory: Path, config: dict) -> Tokenizer:
    """Returns the tokenizer with the tokens of `added_tokens.json` and of the files beside it."""
    added_path, map_path = directory / "added_tokens.json", directory / "special_tokens_map.json"
    special = read_json(map_path, _Config) if map_path.exists() else {}
    _check_fields(special, _TOKENS, path=map_path)
    ids = {piece: i for i, piece in enumerate(tokenizer.pieces)}
    added: dict[str, Any] = read_json(added_path, dict[str, int]) if added_path.exists() else {}
    for i, token in (config.get("added_tokens_decoder") or {}).items():
        added[str(token.get("content"))] = int(i) if i.isdecimal() else i
    for file in (config, special):
        for token in file.get("additional_special_tokens") or ():
            name = str(token.get("content") if isinstance(token, dict) else token)
            added.setdefault(name, ids.get(name))
    for name, i in added.items():
        if ids.get(name, i) != i or not isinstance(i, int) or (i < len(ids) and name not in ids):
            raise DataError(
                f"{directory}: added token {name!r:.60} has id {i!s:.60}; accepted: the id of the "
                "same piece of vocab.txt, or an id after the vocabulary"
            )
    new = {name: i for name, i in added.items() if name not in SPECIAL_PIECES}
    if not new:
        return tokenizer
    description = tokenizer_json(tokenizer)
    description["added_tokens"] += [
        {"id": i, "content": name, **_FLAGS, "special": False}
        for name, i in sorted(new.items(), key=lambda pair: pair[1])
    ]
    with located(directory):
        return HuggingFace.from_content(description)


def _wordpiece_of_model(
    description: dict[str, Any], *, path: Path, **normalization: Any
) -> WordPiece:
    check_json(description, _WordPieceDescription, place=path)
    model = description["model"]
    ids, limit = model["vocab"], model.get("max_input_chars_per_word", MAX_WORD_LENGTH)
    if sorted(ids.values()) != list(range(len(ids))):
        raise DataError(f"{path}: model.vocab skips or repeats ids; accepted: 0, 1, 2, ...")
    pieces = tuple(sorted(ids, key=ids.__getitem__))
    with located(path):
        return WordPiece(pieces=pieces, max_word_length=limit, **normalization)


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


def write_tokenizer(
    directory: Path, tokenizer: Tokenizer, *, max_positions: int, segments: bool = True
) -> None:
    """Writes the files from which `AutoTokenizer` makes a tokenizer that gives the same ids.

    `segments` says whether the tokenizer also gives `token_type_ids`, as inputs of the model.

    Raises:
      CheckpointError: a SentencePiece model is not a unigram model.
    """
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    names = dict(_NAMES)
    if isinstance(tokenizer, WordPiece):
        write_atomically(directory / "vocab.txt", "".join(f"{p}\n" for p in tokenizer.pieces))
        settings = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": tokenizer.lower_case,
            "strip_accents": tokenizer.strip_accents,
            "tokenize_chinese_chars": True,
        }
    elif isinstance(tokenizer, HuggingFace):
        names = {name: tokenizer.special_names[piece] for name, piece in _NAMES.items()}
    write_json(directory / "tokenizer.json", tokenizer_json(tokenizer))
    settings["model_max_length"] = max_positions
    settings["model_input_names"] = ["input_ids", *["token_type_ids"] * segments, "attention_mask"]
    write_json(directory / "tokenizer_config.json", settings | names)


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns a tokenizer.json with the templates [CLS] A [SEP] and [CLS] A [SEP] B [SEP]."""
    names = {piece: piece for piece in SPECIAL_PIECES}
    if isinstance(tokenizer, HuggingFace):
        content, names = json.loads(tokenizer.description), tokenizer.special_names
    elif isinstance(tokenizer, SentencePiece):
        content = _unigram(tokenizer)
    else:
        assert isinstance(tokenizer, WordPiece)
        content = _wordpiece(tokenizer)
    ids = {names[piece]: i for piece, i in tokenizer.special_ids.items()}
    added = {token["content"]: token for token in content.get("added_tokens") or ()}
    for name, i in ids.items():
        added.setdefault(name, {"id": i, "content": name, **_FLAGS, "special": True})
    cls, sep = names["[CLS]"], names["[SEP]"]

    def part(kind: str, name: str, segment: int) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": segment}}

    single = [part("SpecialToken", cls, 0), part("Sequence", "A", 0), part("SpecialToken", sep, 0)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        **content,
        "added_tokens": sorted(added.values(), key=lambda token: token["id"]),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": [*single, part("Sequence", "B", 1), part("SpecialToken", sep, 1)],
            "special_tokens": {p: {"id": p, "ids": [ids[p]], "tokens": [p]} for p in (cls, sep)},
        },
    }


def _wordpiece(tokenizer: WordPiece) -> dict[str, Any]:
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": tokenizer.lower_case,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": tokenizer.max_word_length,
            "vocab": {piece: i for i, piece in enumerate(tokenizer.pieces)},
        },
    }


def _unigram(tokenizer: SentencePiece) -> dict[str, Any]:
    """Returns the model, its table of normalized characters and its treatment of spaces."""
    fields = protobuf_fields(tokenizer.model)
    trainer, normalizer = (protobuf_fields(fields[number][0]) for number in (2, 3))
    if (kind := trainer.get(3, [1])[0]) != 1:
        raise CheckpointError(
            f"the model_type of the SentencePiece model is number {kind}; accepted for Hugging "
            "Face: 1, a unigram model"
        )
    table = base64.b64encode(normalizer.get(2, [b""])[0]).decode()
    spaces = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    steps = [
        *([{"type": "Precompiled", "precompiled_charsmap": table}] if table else []),
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": spaces,
        "decoder": spaces,
        "model": {
            "type": "Unigram",
            "unk_id": tokenizer.unk_id,
            "vocab": [[piece, tokenizer.score(i)] for i, piece in enumerate(tokenizer.pieces)],
            "byte_fallback": bool(trainer.get(35, [0])[0]),
        },
    }
