"""The config and the tensors of Hugging Face's ModernBERT, in both directions.

Reference: transformers 5.23.0 (models/modernbert/modeling_modernbert.py).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError
from bert_jax.files import read_json
from bert_jax.interop import source
from bert_jax.interop.names import Name
from bert_jax.models.config import ModernConfig

MODEL_TYPE = "modernbert"

FIELDS = source.SIZES | {
    "dropout": "mlp_dropout",
    "attention_dropout": "attention_dropout",
    "layer_norm_epsilon": "norm_eps",
    "initializer_stddev": "initializer_range",
    "global_every": "global_attn_every_n_layers",
    "local_window": "local_attention",
    "global_theta": "global_rope_theta",
    "local_theta": "local_rope_theta",
}
"""Fields of ModernConfig and their names in the config.json of ModernBERT's authors, which current
releases of transformers read, too."""

SIZES = {ours: theirs for ours, theirs in source.SIZES.items() if ours != "max_positions"}
"""Fields whose values are dimensions of tensors. Rotary positions have no table."""

FIXED = {
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
    "classifier_activation": "gelu",
    "tie_word_embeddings": True,
}
"""Values of fields that describe the only variant that bert_jax computes."""


def _kernel(path: str, theirs: str, *, inputs: int = 1) -> Name:
    return Name(f"{path}/kernel", f"{theirs}.weight", "", inputs, transposed=("huggingface",))


def _layer(path: str, theirs: str, *, inputs: int = 1) -> Name:
    return _kernel(f"bert/layers/{path}", f"model.layers.{{layer}}.{theirs}", inputs=inputs)


NAMES = (
    Name("bert/embeddings/token", "model.embeddings.tok_embeddings.weight", "", 1, padded=True),
    Name("bert/embeddings/layer_norm/scale", "model.embeddings.norm.weight", ""),
    Name("bert/layers/attention_norm/scale", "model.layers.{layer}.attn_norm.weight", ""),
    _layer("attention/query", "attn.query"),
    _layer("attention/key", "attn.key"),
    _layer("attention/value", "attn.value"),
    _layer("attention/output", "attn.Wo", inputs=2),
    Name("bert/layers/feed_forward_norm/scale", "model.layers.{layer}.mlp_norm.weight", ""),
    _layer("feed_forward/intermediate", "mlp.input"),
    _layer("feed_forward/gate", "mlp.gate"),
    _layer("feed_forward/output", "mlp.Wo"),
    Name("bert/final_norm/scale", "model.final_norm.weight", ""),
    _kernel("masked_token_head/transform", "head.dense"),
    Name("masked_token_head/layer_norm/scale", "head.norm.weight", ""),
    Name("masked_token_head/bias", "decoder.bias", "", padded=True),
)
"""The parameters. ModernBERT stores some of them in one tensor (`FUSED`)."""

FUSED = {"attn.Wqkv": ("attn.query", "attn.key", "attn.value"), "mlp.Wi": ("mlp.input", "mlp.gate")}
"""Tensors that hold several matrices, one below the other."""

_FIRST_NORM = "model.layers.0.attn_norm.weight"


def split(tensors: Mapping[str, np.ndarray], *, hidden_size: int) -> dict[str, np.ndarray]:
    """Returns the tensors under the names of `NAMES`, with each fused tensor cut into its matrices.

    The first layer normalizes nothing before attention. Its scale, which has no effect, is 1.
    """
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^((module|_orig_mod)\.)+", "", name)  # of torch's wrappers
        if name.startswith(("embeddings.", "layers.", "final_norm.")):  # an encoder without head
            name = f"model.{name}"
        for fused, parts in FUSED.items():
            divides = tensor.ndim and not len(tensor) % len(parts)
            if divides and name.endswith(f".{fused}.weight"):
                cut = zip(parts, np.split(tensor, len(parts)), strict=True)
                found |= {name.replace(fused, part): matrix for part, matrix in cut}
                break
        else:
            found[name] = tensor
    return found | {_FIRST_NORM: np.ones(hidden_size, np.float32)}


def fuse(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors as ModernBERT stores them: the inverse of `split`."""
    found = dict(tensors)
    del found[_FIRST_NORM]
    for name in tensors:
        for fused, parts in FUSED.items():
            if f".{parts[0]}." in name:
                matrices = [found.pop(name.replace(parts[0], part)) for part in parts]
                found[name.replace(parts[0], fused)] = np.concatenate(matrices)
    return found


def read_config(file: Path) -> ModernConfig:
    """Returns the model config that a `config.json` describes.

    Raises:
      CheckpointError: the model is a variant that bert_jax cannot compute.
      DataError: the file cannot be read or is not a JSON object.
    """
    given = read_json(file)
    source.check_fixed(given, FIXED | {"hidden_activation": "gelu"}, file)
    defaults = {theirs: getattr(ModernConfig, ours) for ours, theirs in FIELDS.items()}
    values = defaults | _layers_of(given, file) | given
    one_rate = {"embedding_dropout": values["mlp_dropout"]}
    source.check_fixed({"embedding_dropout": 0.0} | values, one_rate, file)
    return source.make_config(ModernConfig, values, FIELDS, file)


def _layers_of(given: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Returns what transformers 5 says about the layers, in the fields of earlier releases."""
    found: dict[str, Any] = {}
    ropes, kinds = given.get("rope_parameters") or {}, given.get("layer_types")
    for kind, name in (("full_attention", "global"), ("sliding_attention", "local")):
        rope = ropes.get(kind) if isinstance(ropes, dict) else None
        if isinstance(rope, dict):
            source.check_fixed(rope, {"rope_type": "default"}, file)
            if "rope_theta" in rope:
                found[f"{name}_rope_theta"] = rope["rope_theta"]
    if isinstance(kinds, list):
        later = [number for number, kind in enumerate(kinds) if number and kind == "full_attention"]
        every = given.get("global_attn_every_n_layers", later[0] if later else max(len(kinds), 1))
        if type(every) is not int or every < 1:
            return found  # the checks of the fields refuse it
        expected = [
            "sliding_attention" if i % every else "full_attention" for i in range(len(kinds))
        ]
        if kinds != expected or given.get("num_hidden_layers", len(kinds)) != len(kinds):
            accepted = "full_attention in every n-th layer, from the first"
            raise CheckpointError(f"{file}: layer_types is {kinds!r:.60}; accepted: {accepted}")
        found["global_attn_every_n_layers"] = every
    return found


def config_json(config: ModernConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the fields of a config.json.

    Raises:
      CheckpointError: ModernBERT has no such activation.
    """
    if config.activation != "gelu_erf":
        raise CheckpointError(
            f"model.activation is {config.activation!r}; accepted for ModernBERT: 'gelu_erf'"
        )
    values = {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()}
    return {
        "architectures": ["ModernBertForMaskedLM"],
        "model_type": MODEL_TYPE,
        **FIXED,
        **values,
        "intermediate_size": config.feed_forward_size,
        "embedding_dropout": config.dropout,
        "hidden_activation": "gelu",
        "cls_token_id": tokenizer.cls_id,
        "bos_token_id": tokenizer.cls_id,
        "sep_token_id": tokenizer.sep_id,
        "eos_token_id": tokenizer.sep_id,
    }
