"""The notebook's door: `load_run(path)` gives config, model, parameters and tokenizer of a run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from bert_jax.data.batch import Batch
from bert_jax.data.masking import lay_out
from bert_jax.data.pairs import Pair
from bert_jax.data.tokenizers import Tokenizer, tokenizer_from_json
from bert_jax.errors import CheckpointError, DataError
from bert_jax.experiment import Experiment
from bert_jax.models.bert import BertForPretraining, apply, num_parameters
from bert_jax.training import checkpoint
from bert_jax.training.state import abstract_params

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
    config: Experiment
    model: BertForPretraining
    params: Any
    """Float32 arrays on a CPU; `model.apply({"params": params}, batch)` runs them."""
    tokenizer: Tokenizer

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
        """Returns which arrays were loaded; loading is strict, so none was left out."""
        leaves = jax.tree_util.tree_leaves_with_path(self.params)
        lines = [
            f"  {jax.tree_util.keystr(path, simple=True, separator='/'):60} "
            f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in leaves
        ]
        count = num_parameters(self.params, self.config.model)
        return "\n".join(
            [
                f"{self.path}, step {self.step}: {len(leaves)} arrays, {count:,} parameters; "
                "none missing, unexpected or reshaped",
                *lines,
            ]
        )

    def metrics(self) -> list[dict[str, float]]:
        """Returns the rows of `metrics.jsonl`."""
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
            ids += [self.tokenizer.mask_id, *self.tokenizer.encode(part)]
        layout = lay_out(
            [Pair(ids, [], 0)],
            batch_size=1,
            sequence_length=self._length(len(ids) + 1 + self.config.data.single_text_separator),
            single_text_separator=self.config.data.single_text_separator,
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
        limit = self.config.model.max_positions
        if tokens > limit:
            raise DataError(
                f"the text has {tokens} tokens with [CLS] and [SEP]; accepted: at most "
                f"model.max_positions, {limit}"
            )
        return min(-(-tokens // 32) * 32, limit)


def load_run(path: str | Path, step: int | None = None) -> Run:
    """Opens a run directory at its last checkpoint, or at `step`, on a CPU.

    Raises:
      CheckpointError: not a run, no such checkpoint, or arrays that are not the model's.
    """
    path = Path(path)
    if not (path / "checkpoints").is_dir():
        raise CheckpointError(f"{path} is not a run: it has no checkpoints/")
    with checkpoint.open_checkpoints(path, read_only=True) as manager:
        steps: Sequence[int] = manager.all_steps()
        if not steps:
            raise CheckpointError(f"{path} has no checkpoint yet")
        step = max(steps) if step is None else step
        if step not in steps:
            raise CheckpointError(f"{path} has no checkpoint {step}; accepted: {sorted(steps)}")
        experiment, description = checkpoint.restore_description(manager, step=step)
        model = BertForPretraining(experiment.model)
        cpu = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        params = checkpoint.restore_params(manager, abstract_params(model, cpu), step=step)
    return Run(
        path=path,
        step=step,
        config=experiment,
        model=model,
        params=params,
        tokenizer=tokenizer_from_json(description),
    )
