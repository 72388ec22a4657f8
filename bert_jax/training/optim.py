"""BERT's AdamW and its relatives, and the learning rate, as optax transforms."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike
from msgspec import Meta

from bert_jax.config import PositiveFloat, check_bounds
from bert_jax.errors import ConfigError

STACKED_LAYERS = ("bert", "layers")
"""Path of the parameters whose first dimension is the layer."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which AdamW or LAMB, and the learning rate of each update; the defaults are BERT's AdamW."""

    name: Literal["adamw", "lamb"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    """The highest: what the warm-up rises to."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 10_000
    warmup_start: int = 0
    """Step at which the rate would be 0; MLPerf's is -76, so that training starts above 0."""
    first_step: Literal[0, 1] = 0
    """Step that the schedule counts the first update as: 0, or 1 as NVIDIA does."""
    schedule: Literal["polynomial", "constant"] = "polynomial"
    """After the warm-up: to 0 at `training.steps`, or constant."""
    power: PositiveFloat = 1.0
    """Of the polynomial: 1 is linear, NVIDIA's LAMB has 0.5."""
    decay_from: Literal["start", "warmup_end"] = "start"
    """Where the polynomial is 1: at step 0 (Google), so that the rate jumps down at the end of the
    warm-up, or at the end of the warm-up (Hugging Face)."""
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    epsilon: PositiveFloat = 1e-6
    bias_correction: bool = False
    """Of both moments; BERT was trained without."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    decay_excludes: Literal["bias_and_layer_norm", "nothing"] = "bias_and_layer_norm"
    trust_ratio: Literal["decayed", "all"] = "decayed"
    """LAMB only: which parameters have one, those that `decay_excludes` leaves or all."""
    max_grad_norm: PositiveFloat = 1.0

    def __post_init__(self):
        check_bounds(self, "optimizer")
        if not -self.warmup_steps <= self.warmup_start <= 0:
            raise ConfigError(
                f"optimizer.warmup_start is {self.warmup_start}; accepted: "
                f"{-self.warmup_steps} (optimizer.warmup_steps before step 0) to 0"
            )

    @property
    def warmup_end(self) -> int:
        """The first step after the warm-up."""
        return self.warmup_start + self.warmup_steps


def learning_rate_schedule(
    config: OptimizerConfig, *, steps: int, start: int = 0
) -> optax.Schedule:
    """Returns the rate of update number `start`, `start` + 1, ... of a run, the first of `steps`.

    Of `learning_rate`, step s counted from `start` has the part (s - W) / warmup_steps while the
    warm-up lasts, W being `warmup_start`, then (1 - (s - o) / (steps - o)) ** power, where o is 0
    or the end of the warm-up (`decay_from`). With o = 0 the rate rises towards all of it and then
    jumps to what the polynomial has there.

    Sources: polynomial_decay and warm-up of google-research/bert and, with a start, of
    mlcommons/training (optimization.py); get_linear_schedule_with_warmup of transformers;
    PolyWarmUpScheduler of NVIDIA/DeepLearningExamples, which is stepped before each update and
    so counts from 1; its warm-up is a fraction of `steps`, here it is whole steps.
    """
    origin = config.warmup_end if config.decay_from == "warmup_end" else 0

    def schedule(count: ArrayLike) -> Array:
        step = jnp.asarray(count, jnp.float32) + (config.first_step - start)
        rising = (step - config.warmup_start) / max(config.warmup_steps, 1)
        if config.schedule == "constant":
            after = jnp.float32(1)
        else:
            after = jnp.maximum(1 - (step - origin) / (steps - origin), 0) ** config.power
        return config.learning_rate * jnp.where(step < config.warmup_end, rising, after)

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


def decay_mask(
    params: optax.Params,
    *,
    excludes: Literal["bias_and_layer_norm", "nothing"] = "bias_and_layer_norm",
) -> optax.Params:
    """Returns True for the parameters that decay, e.g. all but biases and LayerNorm's scale."""
    names = ("bias", "scale") if excludes == "bias_and_layer_norm" else ()
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in names, params)


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """LAMB's ratio ||parameter|| / ||update|| of each tensor; 1 where either norm is 0.

    `optax.scale_by_trust_ratio` would take the stacked layers for one tensor. Here each layer's
    tensor has a ratio of its own, as it has where layers are separate variables.
    """

    def rescale(update: Array, param: Array) -> Array:
        # Of the array as it is shaped: to ravel one that is cut over devices would gather it.
        of_update, of_param = optax.tree.norm(update), optax.tree.norm(param)
        defined = (of_update > 0) & (of_param > 0)
        return update * jnp.where(defined, of_param / of_update, 1)

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        def of_leaf(path: tuple, update: Array, param: Array) -> Array:
            # By name: another tensor may happen to have as many rows as there are layers.
            stacked = tuple(key.key for key in path[:2]) == STACKED_LAYERS
            return (jax.vmap(rescale) if stacked else rescale)(update, param)

        return jax.tree_util.tree_map_with_path(of_leaf, updates, params)

    return optax.stateless(update)


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns clip -> Adam direction -> + decay * parameter [-> x trust ratio] -> x learning rate.

    Clipping is by the norm of the gradient of the global batch; the published TPU code clips on
    each replica before the sum. torch divides by the norm + 1e-6, which is a relative 1e-6 less.

    LAMB is ALBERT's (google-research/albert, lamb_optimizer.py) without bias correction and with
    ratios of what decays; with the correction MLPerf's reference, and NVIDIA's FusedLAMB
    (apex, multi_tensor_lamb.cu), whose `use_nvlamb=True` is a ratio of all. Where nothing decays
    because `weight_decay` is 0, FusedLAMB has no ratios; here, as in ALBERT's, they stay.
    """
    if config.bias_correction:
        direction = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    else:
        direction = scale_by_uncorrected_adam(
            beta1=config.beta1, beta2=config.beta2, epsilon=config.epsilon
        )
    decays = partial(decay_mask, excludes=config.decay_excludes)
    everything = partial(decay_mask, excludes="nothing")
    transforms = [
        optax.clip_by_global_norm(config.max_grad_norm),
        direction,
        optax.add_decayed_weights(config.weight_decay, mask=decays),
    ]
    if config.name == "lamb":
        adapted = everything if config.trust_ratio == "all" else decays
        transforms.append(optax.masked(scale_by_trust_ratio(), adapted))
    return optax.chain(*transforms, optax.scale_by_learning_rate(schedule))


def restart_moments(
    opt_state: optax.OptState,
    fresh: optax.OptState,
    *,
    moments: Literal["kept", "recounted", "zeroed"],
) -> optax.OptState:
    """Returns the state that a phase begins with; the schedule's count of steps goes on.

    `recounted` is what NVIDIA/DeepLearningExamples does between its phases (run_pretraining.py
    with --phase2): the moments of the first, a step count of 0. Adam without bias correction has
    no count, so that there it is `kept`.

    Args:
      opt_state: at the end of the phase before.
      fresh: as the optimizer's `init` makes it.
      moments: see `SecondPhaseConfig`.
    """

    def at_start(old: Any, new: Any) -> Any:
        if moments == "kept" or isinstance(old, optax.ScaleByScheduleState):
            return old
        if moments == "recounted":
            return old._replace(count=new.count) if isinstance(old, optax.ScaleByAdamState) else old
        return new

    states = (optax.ScaleByScheduleState, optax.ScaleByAdamState, AdamMoments)
    return jax.tree.map(at_start, opt_state, fresh, is_leaf=lambda node: isinstance(node, states))
