"""What foreign files give: a config, a tokenizer and tensors under their own names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES
from bert_jax.errors import CheckpointError, ConfigError
from bert_jax.interop.names import Convention
from bert_jax.models.config import BertConfig

FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_epsilon": "layer_norm_eps",
    "initializer_stddev": "initializer_range",
}
"""BertConfig's fields, and what both Google and Hugging Face call them."""

DEFAULTS = {"layer_norm_eps": 1e-12, "initializer_range": 0.02}
"""What a config.json may leave out; Google's code has the first as a constant."""

ACTIVATIONS = {"gelu_erf": ("gelu",), "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh")}
"""Hugging Face's names of each form; the first is the one that is written.

`gelu` in a `bert_config.json` of Google's is erf too, as Hugging Face reads it and as the first
released checkpoints were trained; google-research/bert as it stands today computes tanh.
"""

# Anything else would be another model.
_FIXED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}


class Source(NamedTuple):
    """Weights from elsewhere, not yet parameters."""

    config: BertConfig
    tokenizer: Tokenizer
    tensors: Mapping[str, np.ndarray]
    convention: Convention


def read_json(file: Path) -> dict[str, Any]:
    """Returns a JSON object of a file.

    Raises:
      CheckpointError: there is none.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} holds a {type(value).__name__}; accepted: a JSON object")
    return value


def read_config(file: Path) -> BertConfig:
    """Returns the model that a `config.json` or `bert_config.json` describes.

    Raises:
      CheckpointError: it is not of a BERT, or of one that cannot be followed.
    """
    given = read_json(file)
    for name, value in _FIXED.items():
        if given.get(name, value) != value:
            raise CheckpointError(f"{file}: {name} is {given[name]!r}; accepted: {value!r}")
    for architecture in given.get("architectures") or ():
        if not str(architecture).startswith("Bert"):
            raise CheckpointError(f"{file}: architecture {architecture!r}; accepted: a Bert")
    values = DEFAULTS | given
    missing = [name for name in (*FIELDS.values(), "hidden_act") if name not in values]
    if missing:
        raise CheckpointError(f"{file} lacks {', '.join(missing)}; accepted: the config of a BERT")
    act = values["hidden_act"]
    activation = next((ours for ours, theirs in ACTIVATIONS.items() if act in theirs), None)
    if activation is None:
        known = ", ".join(name for theirs in ACTIVATIONS.values() for name in theirs)
        raise CheckpointError(f"{file}: hidden_act is {act!r}; accepted: {known}")
    for ours, theirs in FIELDS.items():
        kind = float if BertConfig.__annotations__[ours] is float else int
        if type(values[theirs]) not in (kind, int):
            found = values[theirs]
            raise CheckpointError(f"{file}: {theirs} is {found!r}; accepted: {kind.__name__}")
    fields: dict[str, Any] = {ours: values[theirs] for ours, theirs in FIELDS.items()}
    fields["activation"] = activation
    try:
        return BertConfig(**fields)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error


def config_json(config: BertConfig) -> dict[str, Any]:
    """Returns what `read_config` reads as this model."""
    values = {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    values["intermediate_size"] = config.intermediate_size_or_default
    return {"model_type": "bert", "hidden_act": ACTIVATIONS[config.activation][0]} | values


def check_vocabulary(tokenizer: Tokenizer, config: BertConfig, file: Path) -> None:
    """Refuses a vocabulary with more pieces than the model has rows; fewer leave rows unused."""
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{file} has {tokenizer.vocab_size} pieces; accepted: at most the config's vocab_size, "
            f"{config.vocab_size}"
        )


def looks_lower_case(pieces: tuple[str, ...] | list[str]) -> bool:
    """Whether no piece but the special ones holds a capital letter."""
    return not any(piece != piece.lower() for piece in pieces if piece not in SPECIAL_PIECES)
