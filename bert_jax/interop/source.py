"""Weights of another implementation: config, tokenizer, and tensors under their own names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError, ConfigError
from bert_jax.files import read_json
from bert_jax.interop.names import NAMES, Convention, Name
from bert_jax.models.config import BertConfig

Config = TypeVar("Config", bound=BertConfig)

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
}
"""Sizes in BertConfig and their names in the configs of BERT and of ModernBERT."""

FIELDS = SIZES | {
    "num_segments": "type_vocab_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_epsilon": "layer_norm_eps",
    "initializer_stddev": "initializer_range",
}
"""Fields of BertConfig and their names in the configs of Google and Hugging Face."""

DEFAULTS = {"layer_norm_eps": 1e-12, "initializer_range": 0.02}
"""Values of fields that a config.json may omit. In Google's code layer_norm_eps is a constant."""

ACTIVATIONS = {
    "gelu_erf": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
}
"""Hugging Face's names of each activation. The first name is used for writing.

`gelu` in Google's `bert_config.json` also means the erf form, as in Hugging Face: the first
released checkpoints were trained with it. google-research/bert computes the tanh form today.
"""

# Required values of some fields. Other values describe a model that bert_jax does not have.
_FIXED = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}


class _Config(TypedDict, total=False):
    """Fields of a config.json whose type is not checked with their value."""

    architectures: list[str] | None


class Source(NamedTuple):
    """Weights of another implementation before their conversion to parameters."""

    config: BertConfig
    tokenizer: Tokenizer
    tensors: Mapping[str, np.ndarray]
    convention: Convention
    casing: str
    """Says whether the tokenizer lower-cases, and how that was decided."""
    names: tuple[Name, ...] = NAMES
    """The names of the model's parameters. If they are not BERT's, the tensors have these names."""


def read_config(file: Path) -> BertConfig:
    """Returns the model config that a `config.json` or `bert_config.json` describes.

    Raises:
      CheckpointError: the model is not a BERT, or is a variant that bert_jax cannot compute.
      DataError: the file cannot be read or is not a JSON object.
    """
    given = read_json(file, _Config)
    check_fixed(given, _FIXED, file)
    for architecture in given.get("architectures") or ():
        if "model_type" not in given and not str(architecture).startswith("Bert"):
            raise CheckpointError(f"{file}: architecture {architecture!r:.60}; accepted: Bert...")
    values = DEFAULTS | given
    missing = [name for name in (*FIELDS.values(), "hidden_act") if name not in values]
    if missing:
        raise CheckpointError(f"{file} lacks {', '.join(missing)}; accepted: the config of a BERT")
    named = values["hidden_act"]
    activation = next((ours for ours, theirs in ACTIVATIONS.items() if named in theirs), None)
    if activation is None:
        known = ", ".join(name for theirs in ACTIVATIONS.values() for name in theirs)
        raise CheckpointError(f"{file}: hidden_act is {named!r:.60}; accepted: {known}")
    return make_config(BertConfig, values, FIELDS, file, activation=activation)


def check_fixed(given: Mapping[str, Any], fixed: Mapping[str, Any], file: Path) -> None:
    """Raises CheckpointError if a field of a config.json has another value than in `fixed`."""
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise CheckpointError(f"{file}: {name} is {given[name]!r:.60}; accepted: {value!r}")


def make_config(
    kind: type[Config],
    values: Mapping[str, Any],
    names: Mapping[str, str],
    file: Path,
    **others: Any,
) -> Config:
    """Returns a config of the class `kind`. `names` maps its fields to their names in `values`.

    Raises:
      CheckpointError: a value is no number of the kind of its field, or is out of bounds.
    """
    for ours, theirs in names.items():
        number = float if isinstance(getattr(kind, ours), float) else int
        if type(found := values[theirs]) not in (number, int):
            raise CheckpointError(f"{file}: {theirs} is {found!r:.60}; accepted: {number.__name__}")
    fields = {ours: values[theirs] for ours, theirs in names.items()}
    try:
        return kind(**fields, **others)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error


def config_json(config: BertConfig) -> dict[str, Any]:
    """Returns the model's fields of a Hugging Face config.json, as `read_config` reads them."""
    values = {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    values["intermediate_size"] = config.feed_forward_size
    return {"model_type": "bert", "hidden_act": ACTIVATIONS[config.activation][0]} | values


def check_vocabulary(tokenizer: Tokenizer, config: BertConfig, file: Path) -> None:
    """Raises CheckpointError if the vocabulary has more pieces than the token table has rows."""
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{file} has {tokenizer.vocab_size} pieces; accepted: at most the config's vocab_size, "
            f"{config.vocab_size}"
        )


def check_sizes(
    config: BertConfig,
    tensors: Mapping[str, np.ndarray],
    file: Path,
    names: Mapping[str, str] = FIELDS,
) -> None:
    """Checks that the model is not larger than its tensors, before memory is taken for the model.

    `names` maps the fields to check to their names in the config `file`.

    Raises:
      CheckpointError: a size in the config exceeds every dimension of the tensors.
    """
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    limits = dict.fromkeys(names, largest) | {"num_layers": len(tensors)}
    for ours, limit in limits.items():
        value = getattr(config, ours)
        if isinstance(value, int) and value > limit:
            raise CheckpointError(
                f"{file}: {names[ours]} is {value}; accepted: at most {limit}, for these weights"
            )


def decide_casing(pieces: Sequence[str], given: bool | None) -> tuple[bool, str]:
    """Returns whether to lower-case text for a vocabulary, and the reason.

    Without a `given` answer, a capital letter in a piece of letters means a cased vocabulary. Other
    pieces say nothing: `[CLS]`, or `<S>` in Google's uncased Chinese vocabulary.
    """
    if given is not None:
        return given, "as given"
    words = (piece for piece in pieces if piece.removeprefix("##").isalpha())
    cased = next((word for word in words if word != word.lower()), None)
    found = "no word of vocab.txt has a capital letter" if cased is None else f"it holds {cased!r}"
    return cased is None, f"because {found}; lower_case= and --lower_case say otherwise"
