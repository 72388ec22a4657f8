"""The notebook's door: `load_run(path)` gives config, model, parameters and tokenizer of a run."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from bert_jax.data.batch import Batch
from bert_jax.data.masking import lay_out
from bert_jax.data.pairs import Pair
from bert_jax.data.tokenizers import Tokenizer, save_tokenizer, tokenizer_from_json
from bert_jax.errors import CheckpointError, DataError
from bert_jax.experiment import Experiment
from bert_jax.interop.huggingface import WEIGHTS, read_huggingface, write_huggingface
from bert_jax.interop.source import Source
from bert_jax.interop.tensorflow import checkpoint_prefix, read_google
from bert_jax.interop.tensors import LoadingReport, to_parameters
from bert_jax.models.bert import BertForPretraining, apply, num_parameters
from bert_jax.training import checkpoint
from bert_jax.training.state import abstract_params, unboxed_params

MASK = "[MASK]"


class Filling(NamedTuple):
    """A word piece for a masked position."""

    piece: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model with all that it needs to be used."""

    path: Path
    step: int
    config: Experiment | None
    """None where the weights come from elsewhere; `model.config` is there always."""
    model: BertForPretraining
    params: Any
    """Float32 arrays on a CPU; `model.apply({"params": params}, batch)` runs them."""
    tokenizer: Tokenizer
    loading: LoadingReport | None = None
    """What became of each tensor of weights from elsewhere."""

    def fill_mask(self, text: str, top_k: int = 5) -> list[list[Filling]]:
        """Returns the `top_k` most probable pieces for each [MASK] of a text, best first.

        Raises:
          DataError: the text holds no [MASK] or is too long for the model.
        """
        batch = self._single_text(text)
        logits = self._apply(self.params, batch).token_logits[0, :, : self.tokenizer.vocab_size]
        probabilities = np.asarray(jax.nn.softmax(logits, axis=-1))
        best = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
        pieces = self.tokenizer.pieces
        return [
            [Filling(pieces[token_id], float(row[token_id])) for token_id in ids]
            for row, ids in zip(probabilities, best, strict=True)
        ]

    def report(self) -> str:
        """Returns what was loaded, array by array, and what was not."""
        leaves = flatten_params(self.params)
        count = num_parameters(self.params, self.model.config)
        lines = [
            f"{self.path}, step {self.step}: {len(leaves)} arrays, {count:,} parameters",
            *(f"  {path:60} {leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves.items()),
        ]
        strict = "tensors: all of the checkpoint used; none missing, unexpected or reshaped"
        conversion = self.path / "conversion.txt"
        before = ["converted from", conversion.read_text()] if conversion.is_file() else []
        return "\n".join([*lines, str(self.loading or strict), *before])

    def metrics(self) -> list[dict[str, float]]:
        """Returns the rows of `metrics.jsonl`.

        Raises:
          CheckpointError: weights from elsewhere, which have none.
        """
        if not (self.path / "metrics.jsonl").exists():
            raise CheckpointError(f"{self.path} has no metrics.jsonl; accepted: a run of pretrain")
        return [json.loads(line) for line in (self.path / "metrics.jsonl").open()]

    @cached_property
    def _apply(self):
        return jax.jit(lambda params, batch: apply(self.model, params, batch))

    def _single_text(self, text: str) -> Batch:
        first, *rest = text.split(MASK)
        if not rest:
            raise DataError(f"no {MASK} in {text!r}; accepted: a text with at least one")
        ids = list(self.tokenizer.encode(first))
        for part in rest:
            ids += [self.tokenizer.mask_id, *self.tokenizer.encode_continuation(part)]
        # Hugging Face and Google end a single text with [SEP].
        separator = self.config.data.single_text_separator if self.config else True
        layout = lay_out(
            [Pair(ids, [], 0)],
            batch_size=1,
            sequence_length=self._length(len(ids) + 1 + separator),
            single_text_separator=separator,
            cls_id=self.tokenizer.cls_id,
            sep_id=self.tokenizer.sep_id,
            pad_id=self.tokenizer.pad_id,
        )
        positions = np.flatnonzero(layout.token_ids[0] == self.tokenizer.mask_id)[None]
        first_position = np.zeros((1, 1), np.int32)
        return Batch(
            token_ids=layout.token_ids,
            segment_ids=layout.segment_ids,
            pack_ids=layout.pack_ids,
            mask_positions=positions.astype(np.int32),
            mask_labels=np.zeros_like(positions, np.int32),
            mask_weights=np.ones_like(positions, np.float32),
            cls_positions=first_position,
            pair_labels=first_position,
            pair_weights=first_position.astype(np.float32),
        )

    def _length(self, tokens: int) -> int:
        """Rounds up to a multiple of 32, so that texts share compiled programs."""
        limit = self.model.config.max_positions
        if tokens > limit:
            raise DataError(
                f"the text has {tokens} tokens with [CLS] and [SEP]; accepted: at most "
                f"model.max_positions, {limit}"
            )
        return min(-(-tokens // 32) * 32, limit)


def load_run(path: str | Path, step: int | None = None, *, allow: Collection[str] = ()) -> Run:
    """Opens weights on a CPU: a run at its last checkpoint or at `step`, or weights from elsewhere.

    Args:
      path: a run or a converted directory, a directory of Hugging Face's, or Google's
        `bert_model.ckpt` with `bert_config.json` and `vocab.txt` beside it.
      step: of a run.
      allow: of weights from elsewhere, unexpected tensors to leave out and parts that may be
        missing and are then initialized: `bert/pooler`, `masked_token_head`, `next_sentence_head`.

    Raises:
      CheckpointError: none of these, no such checkpoint, or arrays that are not the model's.
    """
    path = Path(path)
    if not path.exists() and not checkpoint_prefix(path):
        raise CheckpointError(f"{path} does not exist")
    if path.name in WEIGHTS and path.is_file():
        path = path.parent
    if (path / "checkpoints").is_dir():
        if allow:
            raise CheckpointError(
                f"{path} is a run, whose arrays are all there; allow is not for it"
            )
        return _open_run(path, step)
    read = _foreign_reader(path)
    if read:
        if step:
            raise CheckpointError(f"{path} is no run and has no checkpoint {step}; accepted: 0")
        return _open_foreign(path, read(), allow)
    raise CheckpointError(
        f"{path} is not a run: it has no checkpoints/; accepted too: a directory with "
        f"{' or '.join(WEIGHTS)}, or a bert_model.ckpt with its .index"
    )


def save_run(run: Run, directory: Path, *, to: Literal["bert_jax", "huggingface"]) -> None:
    """Writes weights, model and tokenizer into an empty directory, which `load_run` opens."""
    if to == "huggingface":
        parameters = {path: np.asarray(leaf) for path, leaf in flatten_params(run.params).items()}
        write_huggingface(directory, parameters, config=run.model.config, tokenizer=run.tokenizer)
        return
    checkpoint.save_params(
        directory,
        run.params,
        model=run.model.config,
        experiment=run.config,
        tokenizer=run.tokenizer.to_json(),
    )
    save_tokenizer(run.tokenizer, directory)


def _open_run(path: Path, step: int | None) -> Run:
    with checkpoint.open_checkpoints(path, read_only=True) as manager:
        steps: Sequence[int] = manager.all_steps()
        if not steps:
            raise CheckpointError(f"{path} has no checkpoint yet")
        step = max(steps) if step is None else step
        if step not in steps:
            raise CheckpointError(f"{path} has no checkpoint {step}; accepted: {sorted(steps)}")
        description = checkpoint.restore_description(manager, step=step)
        model = BertForPretraining(description.model)
        params = checkpoint.restore_params(manager, abstract_params(model, _cpu()), step=step)
    return Run(
        path=path,
        step=step,
        config=description.experiment,
        model=model,
        params=params,
        tokenizer=tokenizer_from_json(description.tokenizer),
    )


def _foreign_reader(path: Path) -> Callable[[], Source] | None:
    if any((path / name).is_file() for name in WEIGHTS):
        return partial(read_huggingface, path)
    prefix = checkpoint_prefix(path) or checkpoint_prefix(path / "bert_model.ckpt")
    return partial(read_google, prefix) if prefix else None


def _open_foreign(path: Path, source: Source, allow: Collection[str]) -> Run:
    model = BertForPretraining(source.config)
    abstract = abstract_params(model, _cpu())
    shapes = {name: leaf.shape for name, leaf in flatten_params(abstract).items()}
    try:
        parameters, loading = to_parameters(
            source.tensors,
            shapes,
            initialize=partial(_initialize, model),
            convention=source.convention,
            vocab_size=source.config.vocab_size,
            allow=allow,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    params = jax.tree.unflatten(jax.tree.structure(abstract), [parameters[name] for name in shapes])
    return Run(
        path=path,
        step=0,
        config=None,
        model=model,
        params=jax.device_put(params, _cpu()),
        tokenizer=source.tokenizer,
        loading=loading,
    )


def _initialize(model: BertForPretraining, paths: Collection[str]) -> dict[str, np.ndarray]:
    """Parameters as training with seed 0 starts from; jit leaves out what is not asked for."""

    def initialize() -> dict[str, jax.Array]:
        params = flatten_params(unboxed_params(model, 0))
        return {path: params[path] for path in paths}

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.device_get(jax.jit(initialize)())


def flatten_params(params: Any) -> dict[str, Any]:
    """Returns the leaves by their paths, `bert/layers/attention/query/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _cpu() -> SingleDeviceSharding:
    return SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
