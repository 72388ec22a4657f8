"""Runs and trains bert_jax for the comparisons with Hugging Face's BERT.

tests/interop and tests/reference use this module. A batch is given as a dict of arrays in the
layout of `BertForPreTraining`; see tests/reference/huggingface.py.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import load_experiment
from bert_jax.data.batch import Batch
from bert_jax.interop.tensors import from_parameters
from bert_jax.models.bert import Bert, BertForPretraining, apply
from bert_jax.models.config import BertConfig
from bert_jax.training.initial import flatten_params
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.optim import OptimizerConfig, learning_rate_schedule, make_optimizer
from bert_jax.training.state import TrainState, random_stream
from bert_jax.training.step import accumulate_gradients, train_step

ROOT = Path(__file__).parents[1]
IGNORED = -100

# This level halves the compile time.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def huggingface_optimizer(*, learning_rate: float, warmup_steps: int) -> OptimizerConfig:
    """Returns the optimizer of the preset `hf_bert` with the rates of a trace."""
    preset = load_experiment(str(ROOT / "experiments" / "presets.py:hf_bert"))
    return replace(preset.optimizer, learning_rate=learning_rate, warmup_steps=warmup_steps)


def as_batch(batch: dict[str, np.ndarray]) -> Batch:
    """Returns the batch in our layout: masked positions in order, then unused slots of weight 0.

    A row has slots for a quarter of its positions, so all batches share a compiled program.
    """
    masked = batch["labels"] != IGNORED
    predictions = masked.shape[1] // 4
    assert 0 < masked.sum(1).max() <= predictions
    positions = np.argsort(~masked, axis=1, kind="stable")[:, :predictions]
    weights = np.take_along_axis(masked, positions, 1)
    labels = np.take_along_axis(batch["labels"], positions, 1)
    arrays = Batch(
        token_ids=batch["input_ids"],
        segment_ids=batch["token_type_ids"],
        pack_ids=batch["attention_mask"],
        mask_positions=positions * weights,
        mask_labels=labels * weights,
        mask_weights=weights.astype(np.float32),
        cls_positions=np.zeros((len(masked), 1)),
        pair_labels=batch["next_sentence_label"][:, None],
        pair_weights=np.ones((len(masked), 1), np.float32),
    )
    return jax.tree.map(lambda a: a if a.dtype == np.float32 else a.astype(np.int32), arrays)


def encode(config: BertConfig, params: Any, batch: Batch) -> dict[str, np.ndarray]:
    """Returns the outputs at every position, padding included, and `pooled_output`.

    `hidden_states` begin with the output of the embeddings.
    """
    model = Bert(config)
    output = jit(partial(model.apply, keep_hidden_states=True, keep_attentions=True))(
        {"params": params["bert"]},
        batch.token_ids,
        batch.segment_ids,
        batch.pack_ids,
        batch.cls_positions,
    )
    return {
        "sequence_output": np.asarray(output.sequence_output),
        "pooled_output": np.asarray(output.pooled_output)[:, 0],
        "hidden_states": np.concatenate([output.embedding_output[None], output.hidden_states]),
        "attentions": np.asarray(output.attentions),
    }


def predict(config: BertConfig, params: Any, batch: Batch) -> dict[str, np.ndarray]:
    """Returns `token_logits` at the batch's mask positions and `pair_logits`."""
    model = BertForPretraining(config)
    output = jit(lambda params, batch: apply(model, params, batch))(params, batch)
    return {
        "token_logits": np.asarray(output.token_logits[..., : config.vocab_size]),
        "pair_logits": np.asarray(output.pair_logits[:, 0]),
    }


def at_masked(values: np.ndarray, batch: Batch) -> np.ndarray:
    """Selects the masked positions from an output of Hugging Face's model for every position."""
    return np.take_along_axis(values, batch.mask_positions[..., None], 1)


def by_huggingface_name(config: BertConfig, params: Any) -> dict[str, np.ndarray]:
    """Returns parameters or gradients under Hugging Face's names and shapes."""
    flat = {path: np.asarray(leaf) for path, leaf in flatten_params(params).items()}
    return from_parameters(flat, vocab_size=config.vocab_size)


class Gradient(NamedTuple):
    """The loss of a batch, and its gradients under Hugging Face's names."""

    loss: float
    by_name: dict[str, np.ndarray]


def gradient(config: BertConfig, params: Any, batch: Batch) -> Gradient:
    """Returns loss and gradients as training computes them. Dropout must be 0."""
    assert config.dropout == config.attention_dropout == 0
    of_batch = partial(
        accumulate_gradients,
        model=BertForPretraining(config),
        objective=ObjectiveConfig(),
        microbatches=1,
    )
    gradients, metrics = jit(of_batch)(params, batch, random_stream(0, "dropout"))
    loss = float(metrics["loss"].total)
    return Gradient(loss, by_huggingface_name(config, gradients))


class Training(NamedTuple):
    """The loss before each update, and the final parameters under Hugging Face's names."""

    losses: list[float]
    by_name: dict[str, np.ndarray]


def train(
    config: BertConfig, params: Any, batches: list[Batch], optimizer: OptimizerConfig, *, steps: int
) -> Training:
    """Makes an update for each batch. `steps` is the end of the schedule. Dropout must be 0."""
    assert config.dropout == config.attention_dropout == 0
    schedule = learning_rate_schedule(optimizer, steps=steps)
    transform = make_optimizer(optimizer, schedule)
    update = partial(
        train_step,
        model=BertForPretraining(config),
        optimizer=transform,
        schedule=schedule,
        objective=ObjectiveConfig(),
        seed=0,
    )
    update = jit(update)
    state = TrainState(jnp.zeros((), jnp.int32), params, transform.init(params))
    losses = []
    for batch in batches:
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"].total))
    return Training(losses, by_huggingface_name(config, state.params))
