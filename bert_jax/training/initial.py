"""Initial weights: the parameters that a run starts from if `training.init_from` is set."""

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import CheckpointError, ConfigError, require
from bert_jax.files import read_json_if_whole, write_json
from bert_jax.models.config import BertConfig
from bert_jax.training.experiment import Experiment

SAME = (
    "vocab_size",
    "vocab_multiple",
    "hidden_size",
    "num_layers",
    "num_heads",
    "feed_forward_size",
    "max_positions",
    "num_segments",
    "activation",
    "layer_norm_epsilon",
)
"""Fields of BertConfig that must be equal in the initial weights and in the experiment. They decide
the shapes of the parameters and what the model computes from them."""


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Parameters of another run or of another implementation, and their description."""

    path: Path
    """The run or file that `training.init_from` names."""
    step: int
    """Number of updates that the run at `path` has made; 0 for another implementation."""
    config: BertConfig
    params: Any
    """Float32 arrays. Every process has all of them."""
    tokenizer: Tokenizer
    report: str
    """Text with a line for each loaded tensor."""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the parameters' names and values."""
        return fingerprint_params(self.params)


def check_initial_weights(
    weights: InitialWeights | None, experiment: Experiment, tokenizer: Tokenizer
) -> None:
    """Checks that a new run may start from `weights`; None means random parameters.

    Raises:
      ConfigError: the weights are of a fine-tuned model, a field of `SAME` differs, the tokenizer
        differs, or `weights` is None although `training.init_from` is set.
    """
    where = f"training.init_from={experiment.training.init_from}"
    if weights is None:
        if experiment.training.init_from:
            raise ConfigError(
                f"{where}, but train() got no weights; accepted: "
                "weights=open_initial_weights(experiment, workdir)"
            )
        return
    if "output" in weights.params:
        raise ConfigError(f"{where} was fine-tuned for a task; accepted: weights of pretraining")
    ours, theirs = type(experiment.model), type(weights.config)
    require(ours is theirs, f"{where}: the class of the model", theirs.__name__, ours.__name__)
    added = [field.name for field in fields(ours) if field.name not in vars(BertConfig)]
    for name in (*SAME, *added):
        found, wanted = getattr(weights.config, name), getattr(experiment.model, name)
        field = name.replace("feed_forward_size", "intermediate_size")
        require(found == wanted, f"{where}: {field}", found, f"{wanted!r}, as in the experiment")
    rows = weights.config.vocab_size
    if len(weights.tokenizer.pieces) < rows:
        raise ConfigError(
            f"{where} has {rows} rows for {len(weights.tokenizer.pieces)} pieces; accepted: one "
            "row for each piece (these weights can be used, but not trained further)"
        )
    pieces, ours = weights.tokenizer.pieces, tokenizer.pieces
    for i, (found, wanted) in enumerate(zip(pieces, ours, strict=True)):
        if found != wanted:
            raise ConfigError(
                f"{where} has another vocabulary: id {i} is {found!r}, but in "
                f"{experiment.data.directory} it is {wanted!r}; accepted: the same (copy its "
                "tokenizer.json into data.directory before bert_jax.prepare)"
            )
    found, wanted = weights.tokenizer.to_json(), tokenizer.to_json()
    for name in ("lower_case", "strip_accents"):
        if (value := found.get(name)) != wanted.get(name):
            raise ConfigError(f"{where} has {name} {value}; accepted: data.{name} equal")
    if found != wanted:
        raise ConfigError(
            f"{where} has another tokenizer ({found['kind']}); accepted: the same (copy its "
            "tokenizer.json into data.directory before bert_jax.prepare)"
        )


def record(weights: InitialWeights, workdir: Path) -> None:
    """Writes `initial.json`: source, step, SHA-256 and loading report of the weights.

    Raises:
      CheckpointError: an earlier start of the run, which ended before its first checkpoint, used
        other weights.
    """
    file, found = workdir / "initial.json", weights.sha256
    before = read_json_if_whole(file).get("sha256", found)
    if before != found:
        raise CheckpointError(
            f"{workdir} started from weights {before!s:.12}, but {weights.path} now holds "
            f"{found[:12]}; accepted: the same weights, or another --workdir"
        )
    if jax.process_index() == 0:
        content = {"source": str(weights.path), "step": weights.step, "sha256": found}
        write_json(file, content | {"report": weights.report.splitlines()})


def place(params: Any, sharding: Any) -> Any:
    """Puts parameters on the devices as `sharding` says. Every process passes all parameters."""

    def place_one(leaf: jax.Array, where: jax.sharding.Sharding) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, where, lambda index: whole[index])

    return jax.tree.map(place_one, params, sharding)


def flatten_params(params: Any) -> dict[str, Any]:
    """Returns every array by its path, e.g. "bert/layers/attention/query/kernel"."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def fingerprint_params(params: Any) -> str:
    """Returns the SHA-256 of the names and values of the parameters."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten_params(params).items()):
        digest.update(path.encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
