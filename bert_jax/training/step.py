"""One update and one evaluation: pure functions of state and batch."""

from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from bert_jax.data.batch import Batch
from bert_jax.models.bert import BertForPretraining, apply
from bert_jax.training.losses import ObjectiveConfig, accuracy, cross_entropy, mlm_objective
from bert_jax.training.metrics import Mean
from bert_jax.training.state import TrainState

Metrics = dict[str, Mean]


def pretraining_loss(
    params: Any,
    batch: Batch,
    *,
    model: BertForPretraining,
    objective: ObjectiveConfig,
    dropout_rng: Array | None = None,
) -> tuple[Float[Array, ""], Metrics]:
    """Returns masked-LM loss + next-sentence loss and the metrics of both.

    Each loss is divided once, by its weight over the global batch. Without `dropout_rng` dropout
    is off.
    """
    output = apply(model, params, batch, dropout_rng=dropout_rng)
    mlm_loss = Mean.of(cross_entropy(output.token_logits, batch.mask_labels), batch.mask_weights)
    nsp_loss = Mean.of(cross_entropy(output.pair_logits, batch.pair_labels), batch.pair_weights)
    loss = mlm_objective(mlm_loss, batch.pack_ids, objective) + nsp_loss.compute()
    return loss, {
        "loss": Mean(loss, 1.0),
        "mlm_loss": mlm_loss,
        "mlm_accuracy": accuracy(output.token_logits, batch.mask_labels, batch.mask_weights),
        "nsp_loss": nsp_loss,
        "nsp_accuracy": accuracy(output.pair_logits, batch.pair_labels, batch.pair_weights),
    }


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: BertForPretraining,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    objective: ObjectiveConfig,
    seed: int,
) -> tuple[TrainState, Metrics]:
    """Makes one update. Dropout is addressed by (seed, step)."""
    dropout_rng = jax.random.fold_in(jax.random.key(seed), state.step)
    gradients, metrics = jax.grad(pretraining_loss, has_aux=True)(
        state.params, batch, model=model, objective=objective, dropout_rng=dropout_rng
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    metrics["grad_norm"] = Mean(optax.tree.norm(gradients), 1.0)
    metrics["learning_rate"] = Mean(schedule(state.step), 1.0)
    metrics["tokens"] = Mean(batch.padding_mask.sum(), 1.0)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), metrics


def eval_step(
    params: Any, batch: Batch, *, model: BertForPretraining, objective: ObjectiveConfig
) -> Metrics:
    """Returns the metrics of one held-out batch, dropout off."""
    return pretraining_loss(params, batch, model=model, objective=objective)[1]
