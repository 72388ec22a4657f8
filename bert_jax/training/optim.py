"""BERT's AdamW and learning rate, as optax transforms.

References:
  https://github.com/google-research/bert, optimization.py
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from bert_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW as BERT was trained with: no bias correction, decay not on biases and LayerNorm."""

    learning_rate: float = 1e-4
    warmup_steps: int = 10_000
    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up: linear to 0 at `training.steps`, or constant."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def __post_init__(self):
        for name in ("learning_rate", "epsilon", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}; accepted: above 0")
        for name in ("warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}; accepted: 0 or more")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"optimizer.{name} is {getattr(self, name)}; accepted: at least 0, below 1"
                )


def learning_rate_schedule(config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """Returns the rate of update number 0, 1, ...

    The decay is on the absolute step and the warm-up overrides it, so that the rate is 0 at step
    0 and jumps from `learning_rate` to `learning_rate * (1 - warmup / steps)` at the end of the
    warm-up, as in the published code.
    """

    def schedule(count: ArrayLike) -> Array:
        step = jnp.asarray(count, jnp.float32)
        after = jnp.float32(1) if config.schedule == "constant" else 1 - step / steps
        rising = step / max(config.warmup_steps, 1)
        return config.learning_rate * jnp.where(step < config.warmup_steps, rising, after)

    return schedule


class AdamMoments(NamedTuple):
    """First and second moments of the gradient, float32, shaped as the parameters."""

    mean: optax.Params
    square: optax.Params


def scale_by_uncorrected_adam(
    *, beta1: float, beta2: float, epsilon: float
) -> optax.GradientTransformation:
    """Adam's direction without bias correction, which `optax.scale_by_adam` cannot leave out."""

    def init(params: optax.Params) -> AdamMoments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamMoments(zeros, jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdamMoments]:
        del params  # of no use here, but part of the interface
        mean = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mean, updates)
        square = jax.tree.map(
            lambda v, g: beta2 * v + (1 - beta2) * jnp.square(g), state.square, updates
        )
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mean, square)
        return direction, AdamMoments(mean, square)

    return optax.GradientTransformation(init, update)


def decay_mask(params: optax.Params) -> optax.Params:
    """Returns True for the parameters that decay: all but biases and LayerNorm's scale."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key not in ("bias", "scale"), params
    )


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns clip -> Adam direction -> + decay * parameter -> x learning rate.

    Clipping is by the norm of the gradient of the global batch; the published TPU code clips on
    each replica before the sum.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        scale_by_uncorrected_adam(beta1=config.beta1, beta2=config.beta2, epsilon=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(schedule),
    )
