"""Model, optimizer and first state of a fine-tuning, and what may be trained of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from bert_jax.errors import ConfigError
from bert_jax.models.config import BertConfig, TaskHeadConfig
from bert_jax.models.task import BertForTask, example_ids
from bert_jax.tasks.config import FineTuningConfig
from bert_jax.tasks.families.family import Family, Labels, TaskBatch
from bert_jax.training.metrics import Mean
from bert_jax.training.optim import learning_rate_schedule, make_optimizer
from bert_jax.training.state import TrainState, random_stream, state_sharding

OUTPUT, POOLER, LAYERS, EMBEDDINGS = "output", "pooler", "layers", "embeddings"


def make_model(
    config: FineTuningConfig, encoder: BertConfig, family: Family, labels: Labels
) -> BertForTask:
    """Returns the encoder, its dropout that of the fine-tuning, with the task's output layer.

    Raises:
      ConfigError: the encoder has too few positions for the task, or layers to begin anew.
    """
    task, training = config.task, config.training
    if task.max_length > encoder.max_positions:
        raise ConfigError(
            f"task.max_length {task.max_length} is more than the model's {encoder.max_positions} "
            "positions"
        )
    if training.reinitialize_layers > encoder.num_layers:
        raise ConfigError(
            f"training.reinitialize_layers is {training.reinitialize_layers}; accepted: at most "
            f"the model's {encoder.num_layers} layers"
        )
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
    return BertForTask(
        config=encoder,
        head=head,
        frozen=training.frozen,
        rules=config.sharding,
    )


def task_logits(
    model: BertForTask, params: Any, batch: TaskBatch, *, dropout_rng: jax.Array | None = None
) -> jax.Array:
    """Returns [B, n], [B, S, n], or [B, C, 1] where there are C choices; dropout off without a key.

    The choices of an example are rows of the encoder.
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
    config: FineTuningConfig, *, steps: int, num_layers: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimizer of what is trained, with the rate of each layer, and the schedule."""
    warmup = min(round(config.training.warmup_fraction * steps), steps - 1)
    optimizer_config = replace(config.optimizer, warmup_steps=warmup)
    schedule = learning_rate_schedule(optimizer_config, steps=steps)
    transforms = [make_optimizer(optimizer_config, schedule)]
    if config.training.layer_decay < 1:
        rate = config.training.layer_decay
        transforms.append(scale_by_depth(rate, num_layers=num_layers))
    trained = partial(trained_mask, config=config)

    def still(params: Any) -> Any:
        return jax.tree.map(lambda is_trained: not is_trained, trained(params))

    optimizer = optax.chain(
        optax.masked(optax.chain(*transforms), trained),
        optax.masked(optax.set_to_zero(), still),
    )
    return optimizer, schedule


def trained_mask(params: Any, *, config: FineTuningConfig) -> Any:
    """Returns True for parameters that are trained: without an unused pooler, or the output alone.

    An unused pooler would decay, its gradient being 0.
    """
    pooled = config.task.representation == "pooled"

    def of_leaf(path: tuple, _: Any) -> bool:
        names = [key.key for key in path]
        if names[0] == OUTPUT:
            return True
        return not config.training.frozen and (pooled or POOLER not in names)

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def scale_by_depth(rate: float, *, num_layers: int) -> optax.GradientTransformation:
    """Multiplies updates by rate ** depth: output and pooler 0, last layer 2, embeddings deepest.

    References:
      Howard and Ruder 2018, https://arxiv.org/abs/1801.06146; the depths are those of
      google-research/electra, model/optimization.py, which knows no pooler and names no depth 1.
    """

    def update(updates: optax.Updates, params: Any) -> optax.Updates:
        del params

        def of_leaf(path: tuple, leaf: jax.Array) -> jax.Array:
            names = [key.key for key in path]
            if EMBEDDINGS in names:
                return leaf * rate ** (num_layers + 2)
            if LAYERS in names:
                depths = num_layers + 1 - jnp.arange(num_layers)
                return leaf * (rate**depths).reshape(-1, *[1] * (leaf.ndim - 1))
            return leaf

        return jax.tree_util.tree_map_with_path(of_leaf, updates)

    return optax.stateless(update)


def state_maker(
    model: BertForTask,
    optimizer: optax.GradientTransformation,
    config: FineTuningConfig,
    mesh: Mesh,
) -> tuple[TrainState, Callable[[jax.Array, Any], TrainState]]:
    """Returns where the state lies, and a function that makes the first of a seed.

    The function takes the key of the seed and the encoder's parameters, placed. Step and moments
    are 0; the output layer, and what `reinitialize_*` names or all, are drawn from the key.
    """

    def initialize(rng: jax.Array) -> TrainState:
        params = model.init(rng, *example_ids())["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(nn.unbox(params)))

    sharding = state_sharding(
        partial(initialize, jax.random.key(0)), mesh=mesh, rules=config.sharding
    )
    anew = config.training.reinitialize_layers

    def make(rng: jax.Array, encoder: Any) -> TrainState:
        state = nn.unbox(initialize(rng))
        if config.training.from_scratch:
            return state
        fresh, bert = state.params["bert"], dict(encoder)
        if config.training.reinitialize_pooler:
            bert[POOLER] = fresh[POOLER]
        if anew:
            bert[LAYERS] = jax.tree.map(
                lambda old, new: old.at[-anew:].set(new[-anew:]), bert[LAYERS], fresh[LAYERS]
            )
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
    """Makes one update; dropout is addressed by (seed, step)."""
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
        "param_norm": Mean(optax.tree.norm(params), 1.0),
    }
    return TrainState(state.step + 1, params, opt_state), metrics


def seed_streams(seed: int) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of the first parameters and of dropout."""
    return random_stream(seed, "init"), random_stream(seed, "dropout")
