"""Model, optimizer, first state and update of a fine-tuning."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from bert_jax.errors import require
from bert_jax.models.config import BertConfig, TaskHeadConfig
from bert_jax.models.task import BertForTask, example_ids
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.families.family import Family, Labels, TaskBatch
from bert_jax.training.metrics import Mean
from bert_jax.training.optim import learning_rate_schedule, make_optimizer
from bert_jax.training.state import TrainState, state_sharding

OUTPUT, POOLER = "output", "pooler"

norm_of = jax.jit(optax.tree.norm)
"""The norm of all parameters together."""


def make_model(
    config: FineTuningConfig, encoder: BertConfig, family: Family, labels: Labels
) -> BertForTask:
    """Returns the encoder, with the fine-tuning's dropout, and the task's output layer.

    Raises:
      ConfigError: the encoder has too few positions or segments, or no pooler, for the task.
    """
    task, training = config.task, config.training
    pair, segments = task.text_pair, encoder.num_segments
    accepted = f"'' for a model with model.num_segments {segments}"
    require(not pair or segments > 1, "task.text_pair", pair, accepted)
    length, positions = task.max_length, encoder.max_positions
    at_most = f"at most {positions}, the positions of the model"
    require(length <= positions, "task.max_length", length, at_most)
    given, accepted = task.representation, "cls, mean, max or last4 for a model without a pooler"
    require(encoder.pair_head or given != "pooled", "task.representation", given, accepted)
    head = TaskHeadConfig(
        family=task.family,
        labels=labels,
        outputs=family.outputs(labels),
        unit=family.unit,
        representation=task.representation,
        dropout=family.dropout,
    )
    if training.dropout is not None:
        encoder = replace(encoder, dropout=training.dropout, attention_dropout=training.dropout)
    return BertForTask(config=encoder, head=head, frozen=training.frozen, rules=config.sharding)


def task_logits(
    model: BertForTask, params: Any, batch: TaskBatch, *, dropout_rng: jax.Array | None = None
) -> jax.Array:
    """Returns logits: [B, n] for texts, [B, S, n] for tokens, [B, C, 1] for C choices.

    For the encoder, each choice is a row of its own. Without `dropout_rng`, dropout is off.
    """
    rows, choices, length = batch.token_ids.shape
    logits = model.apply(
        {"params": params},
        *(ids.reshape(-1, length) for ids in (batch.token_ids, batch.segment_ids, batch.pack_ids)),
        train=dropout_rng is not None,
        rngs=None if dropout_rng is None else {"dropout": dropout_rng},
    )
    assert isinstance(logits, jax.Array)
    return logits.reshape(rows, choices, *logits.shape[1:]) if choices > 1 else logits


def make_task_optimizer(
    config: FineTuningConfig, *, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimizer, which leaves untrained parameters as they are, and its schedule."""
    warmup = min(round(config.training.warmup_fraction * steps), steps - 1)
    optimizer_config = replace(config.optimizer, warmup_steps=warmup)
    schedule = learning_rate_schedule(optimizer_config, steps=steps)
    optimizer = optax.partition(
        {True: make_optimizer(optimizer_config, schedule), False: optax.set_to_zero()},
        partial(trained_mask, config=config),
    )
    return optimizer, schedule


def trained_mask(params: Any, *, config: FineTuningConfig) -> Any:
    """Returns True for each parameter that is trained.

    A frozen encoder is not trained. A pooler that the task does not use is not trained either: its
    gradient is 0, so weight decay alone would change it.
    """

    def is_trained(path: tuple, _: Any) -> bool:
        names = [key.key for key in path]
        used = config.task.representation == "pooled" or POOLER not in names
        return names[0] == OUTPUT or (used and not config.training.frozen)

    return jax.tree_util.tree_map_with_path(is_trained, params)


def state_maker(
    model: BertForTask,
    optimizer: optax.GradientTransformation,
    config: FineTuningConfig,
    mesh: Mesh,
) -> tuple[TrainState, Callable[[jax.Array, Any], TrainState]]:
    """Returns the sharding of the state, and a function that makes the first state of a seed.

    The function takes a random key and the encoder's parameters on the devices. It draws the output
    layer at random. With `reinitialize_pooler`, it also draws the pooler; with `from_scratch`, it
    draws all parameters. Step and moments are 0.
    """

    def initialize(rng: jax.Array) -> TrainState:
        params = model.init(rng, *example_ids())["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(nn.unbox(params)))

    sharding = state_sharding(
        partial(initialize, jax.random.key(0)), mesh=mesh, rules=config.sharding
    )

    def make(rng: jax.Array, encoder: Any) -> TrainState:
        state = nn.unbox(initialize(rng))
        if config.training.from_scratch:
            return state
        bert = dict(encoder)
        if config.training.reinitialize_pooler:
            bert[POOLER] = state.params["bert"][POOLER]
        return TrainState(state.step, state.params | {"bert": bert}, state.opt_state)

    return sharding, jax.jit(make, out_shardings=sharding)


def task_step(
    state: TrainState,
    batch: TaskBatch,
    seed_rng: jax.Array,
    *,
    model: BertForTask,
    family: Family,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> tuple[TrainState, dict[str, Mean]]:
    """Makes one update. Dropout is a function of (seed, step)."""
    dropout_rng = jax.random.fold_in(seed_rng, state.step)

    def loss_of(params: Any) -> tuple[jax.Array, Mean]:
        logits = task_logits(model, params, batch, dropout_rng=dropout_rng)
        loss = family.loss(logits, batch)
        return loss.compute(), loss

    gradients, loss = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": loss,
        "grad_norm": Mean(optax.tree.norm(gradients), 1.0),
        "learning_rate": Mean(schedule(state.step), 1.0),
    }
    return TrainState(state.step + 1, params, opt_state), metrics
