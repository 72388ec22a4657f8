"""The update and the evaluation of one batch, as pure functions."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from bert_jax.data.batch import Batch
from bert_jax.models.bert import BertForPretraining, apply
from bert_jax.sharding import constrain
from bert_jax.training import losses
from bert_jax.training.losses import ObjectiveConfig, accuracy, cross_entropy
from bert_jax.training.metrics import Mean
from bert_jax.training.optim import without_update
from bert_jax.training.state import TrainState, random_stream

Metrics = dict[str, Mean]


def pretraining_loss(
    params: Any,
    batch: Batch,
    weights: losses.LossWeights | None = None,
    dropout_rng: Array | None = None,
    *,
    model: BertForPretraining,
    objective: ObjectiveConfig,
) -> tuple[Float[Array, ""], Metrics]:
    """Returns masked-LM loss + next-sentence loss, and the metrics of both losses.

    Each summed loss is divided by its entry in `weights`, by default `loss_weights` of `batch`. A
    microbatch needs the weights of the global batch. Dropout is off if `dropout_rng` is None.
    """
    if weights is None:
        weights = losses.loss_weights(
            batch.mask_weights, batch.pair_weights, batch.pack_ids, objective
        )
    output = apply(model, params, batch, dropout_rng=dropout_rng)
    mlm_loss = Mean.of(cross_entropy(output.token_logits, batch.mask_labels), batch.mask_weights)
    nsp_loss = Mean.of(cross_entropy(output.pair_logits, batch.pair_labels), batch.pair_weights)
    inputs = {"token_logits": output.token_logits, "mask_weights": batch.mask_weights}
    loss = objective.build()(mlm_loss, nsp_loss, weights, **inputs)
    return loss, {
        "loss": Mean(loss, 0.0),
        "mlm_loss": mlm_loss,
        "mlm_accuracy": accuracy(output.token_logits, batch.mask_labels, batch.mask_weights),
        "nsp_loss": nsp_loss,
        "nsp_accuracy": accuracy(output.pair_logits, batch.pair_labels, batch.pair_weights),
    }


def accumulate_gradients(
    params: Any,
    batch: Batch,
    dropout_rng: Array,
    *,
    model: BertForPretraining,
    objective: ObjectiveConfig,
    microbatches: int = 1,
    dtype: DTypeLike = "float32",
) -> tuple[Any, Metrics]:
    """Returns the float32 gradient of the loss of the global batch, and the metrics of the batch.

    Only one microbatch is computed at a time. Its losses are divided by the weights of the global
    batch. The gradients of all microbatches therefore sum to the gradient of the global batch, even
    if their numbers of masked words differ. Each microbatch has its own dropout key.

    The gradients of kernels are computed in `dtype`; devices add them in it (`gradient_dtype`).
    """
    weights = losses.loss_weights(batch.mask_weights, batch.pair_weights, batch.pack_ids, objective)

    @partial(jax.grad, has_aux=True)
    def gradient(params: Any, *inputs: Any) -> tuple[Array, Metrics]:
        params = _with_kernels_in(dtype, params)
        return pretraining_loss(params, *inputs, model=model, objective=objective)

    if microbatches == 1:
        return gradient(params, batch, weights, dropout_rng)

    def split(rows: Array) -> Array:
        # A microbatch takes every n-th row, so each device splits the rows that it holds.
        parts = rows.reshape(-1, microbatches, *rows.shape[1:]).swapaxes(0, 1)
        return constrain(parts, (None, "batch", *[None] * (rows.ndim - 1)), model.rules)

    def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
        gradients_and_metrics = gradient(params, part[0], weights, part[1])
        return jax.tree.map(jnp.add, total, gradients_and_metrics), None

    parts = jax.tree.map(split, batch)
    rngs = jax.random.split(dropout_rng, microbatches)
    first = jax.tree.map(lambda rows: rows[0], parts)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(gradient, params, first, weights, rngs[0]),
    )
    return jax.lax.scan(add, zeros, (parts, rngs))[0]


def _with_kernels_in(dtype: DTypeLike, params: Any) -> Any:
    """Converts the kernels of dense layers: a product gives its kernel a gradient in its dtype."""

    def convert(path: tuple, leaf: Array) -> Array:
        return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(convert, params)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: BertForPretraining,
    optimizer: optax.GradientTransformationExtraArgs,
    schedule: optax.Schedule,
    objective: ObjectiveConfig,
    seed: ArrayLike,
    microbatches: int = 1,
    gradient_dtype: DTypeLike = "float32",
) -> tuple[TrainState, Metrics]:
    """Makes one update. The random bits of dropout depend on (seed, step) alone.

    If the loss or the norm of the gradient is not finite, the new state is that of `skip_update`.
    The metric `finite` is bool [2 + number of parameter arrays]: whether the loss, the norm and the
    sum of squares of the gradient of each array are finite. The arrays are in the order of
    `jax.tree.leaves`.
    """
    dropout_rng = jax.random.fold_in(random_stream(seed, "dropout"), state.step)
    gradients, metrics = accumulate_gradients(
        state.params,
        batch,
        dropout_rng,
        model=model,
        objective=objective,
        microbatches=microbatches,
        dtype=gradient_dtype,
    )
    # The norm needs the same sums of squares, so XLA computes them once.
    squares = [optax.tree.norm(leaf, squared=True) for leaf in jax.tree.leaves(gradients)]
    norm = optax.tree.norm(gradients)
    checks = jnp.isfinite(jnp.stack([metrics["loss"].total, norm, *squares]))
    finite = checks[0] & checks[1]
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, finite=finite)
    params = optax.tree.where(finite, optax.apply_updates(state.params, updates), state.params)
    # Per-step scalars get weight 1, so a log row reports their mean over its steps.
    metrics["loss"] = Mean(metrics["loss"].total, 1.0)
    metrics["grad_norm"] = Mean(norm, 1.0)
    metrics["finite"] = Mean(checks, 1.0)
    metrics["learning_rate"] = Mean(schedule(state.step), 1.0)
    metrics["tokens"] = Mean(batch.padding_mask.sum(), 1.0)
    return TrainState(state.step + 1, params, opt_state), metrics


def skip_update(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Makes a step without an update. Only the counts of steps advance. The metrics are empty."""
    del batch  # as in `train_step`
    return TrainState(state.step + 1, state.params, without_update(state.opt_state)), {}


def eval_step(
    params: Any, batch: Batch, *, model: BertForPretraining, objective: ObjectiveConfig
) -> Metrics:
    """Returns the metrics of one held-out batch, without dropout."""
    metrics = pretraining_loss(params, batch, model=model, objective=objective)[1]
    return {name: mean for name, mean in metrics.items() if name != "loss"}
