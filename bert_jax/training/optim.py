"""AdamW and LAMB as BERT uses them, and the learning-rate schedule, for optax."""

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
from bert_jax.errors import require

STACKED_LAYERS = ("bert", "layers")
"""Path of the parameters whose first dimension is the layer."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its learning-rate schedule. The defaults are BERT's AdamW.

    An experiment may have another optimizer: a subclass that overrides `build`.
    """

    name: Literal["adamw", "lamb"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    """Highest learning rate, at the end of the warm-up."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 10_000
    """Number of updates in which the rate rises linearly."""
    warmup_start: int = 0
    """Step at which the rate is 0. If it is negative (MLPerf: -76), the first rate is above 0."""
    first_step: Literal[0, 1] = 0
    """Number of the first update in the schedule: 0, or 1 (NVIDIA)."""
    schedule: Literal["polynomial", "constant", "cosine", "one_minus_sqrt"] = "polynomial"
    """The rate after the warm-up: constant, or down to 0 at `training.steps` as a polynomial, as
    half a wave of the cosine, or as 1 minus the square root of the share of the steps."""
    power: PositiveFloat = 1.0
    """Exponent of the polynomial: 1 is linear; NVIDIA's LAMB uses 0.5."""
    decay_from: Literal["start", "warmup_end"] = "start"
    """Step at which the decay starts: step 0 (Google), or the end of the warm-up (Hugging Face).
    With step 0 the rate jumps down at the end of the warm-up."""
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """Decay rate of the first moment."""
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    """Decay rate of the second moment."""
    epsilon: PositiveFloat = 1e-6
    """Term added to the square root of the second moment."""
    bias_correction: bool = False
    """Whether Adam's moments are bias-corrected. BERT was trained without."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    """Decoupled weight decay, multiplied by the learning rate."""
    decay_excludes: Literal["bias_and_layer_norm", "nothing"] = "bias_and_layer_norm"
    """Parameters without weight decay."""
    trust_ratio: Literal["decayed", "all"] = "decayed"
    """Parameters with a trust ratio (LAMB only): those with weight decay, or all."""
    max_grad_norm: Annotated[float, Meta(ge=1e-38, le=1e38)] = 1.0
    """Norm to which the gradient of the global batch is clipped: a float32 number."""

    def __post_init__(self):
        check_bounds(self, "optimizer")
        start, least = self.warmup_start, -self.warmup_steps
        accepted = f"{least} (optimizer.warmup_steps before step 0) to 0"
        require(least <= start <= 0, "optimizer.warmup_start", start, accepted)

    def build(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the optimizer, for a schedule that maps the number of updates to the rate.

        The new parameters are the old ones plus its output, so the output has the learning rate.
        An optimizer of optax needs no care for steps that are not finite (`make_optimizer`).
        """
        return _adamw_or_lamb(self, schedule)

    @property
    def warmup_end(self) -> int:
        """The first step after the warm-up."""
        return self.warmup_start + self.warmup_steps


def learning_rate_schedule(
    config: OptimizerConfig, *, steps: int, start: int = 0
) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates so far.

    `steps` is the length of the schedule. Let s be the number of updates since `start`, plus
    `first_step`. During the warm-up the rate is `learning_rate` x (s - warmup_start) /
    warmup_steps. Afterwards let t = (s - o) / (steps - o), where o is 0 or the end of the warm-up
    (`decay_from`). The rate is `learning_rate` x (1 - t) ** power with `polynomial`,
    x (1 + cos(pi t)) / 2 with `cosine`, and x (1 - sqrt(t)) with `one_minus_sqrt`.

    References:
      google-research/bert, optimization.py: polynomial_decay and warm-up.
      mlcommons/training, optimization.py: the same with `warmup_start`.
      transformers: get_linear_schedule_with_warmup.
      Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983: cosine.
      Haegele et al. 2024, https://arxiv.org/abs/2405.18392: a constant rate, then 1 - sqrt(t).
      NVIDIA/DeepLearningExamples: PolyWarmUpScheduler. It is stepped before each update, so it
      counts from 1. Its warm-up is a fraction of all steps; here the warm-up is a number of steps.
    """
    origin = config.warmup_end if config.decay_from == "warmup_end" else 0

    def schedule(count: ArrayLike) -> Array:
        step = jnp.asarray(count, jnp.float32) + (config.first_step - start)
        rising = (step - config.warmup_start) / max(config.warmup_steps, 1)
        left = jnp.maximum(1 - (step - origin) / (steps - origin), 0)
        if config.schedule == "constant":
            after = jnp.float32(1)
        elif config.schedule == "polynomial":
            after = left**config.power
        elif config.schedule == "cosine":
            after = (1 - jnp.cos(jnp.pi * left)) / 2
        else:
            after = 1 - jnp.sqrt(jnp.maximum(1 - left, 0))
        return config.learning_rate * jnp.where(step < config.warmup_end, rising, after)

    return schedule


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Returns a scaling of the gradient to a norm of at most `max_norm`, by one factor.

    `optax.clip_by_global_norm` divides each element by the norm. Both moments need the quotients,
    so XLA would store them. TensorFlow's tf.clip_by_global_norm multiplies by a factor, too.
    """

    @optax.stateless
    def clip(gradients: optax.Updates, _: optax.Params | None) -> optax.Updates:
        factor = max_norm / jnp.maximum(optax.tree.norm(gradients), max_norm)
        return jax.tree.map(lambda gradient: gradient * factor, gradients)

    return clip


class AdamMoments(NamedTuple):
    """First and second moments of the gradient: float32, with the shapes of the parameters."""

    mean: optax.Params
    square: optax.Params


def scale_by_adam(
    *, beta1: float, beta2: float, epsilon: float, bias_correction: bool
) -> optax.GradientTransformationExtraArgs:
    """Returns Adam's direction, with or without bias correction of the moments.

    `optax.scale_by_adam` always corrects the bias. The update takes `finite`, bool []. If `finite`
    is False, the moments and the step count do not change.
    """
    corrected = optax.scale_by_adam(beta1, beta2, epsilon)

    def init(params: optax.Params) -> optax.OptState:
        if bias_correction:
            return corrected.init(params)
        return AdamMoments(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        finite: ArrayLike = True,
        **_: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params  # part of optax's interface
        if bias_correction:
            new = corrected.update(updates, state)[1]
        else:
            mean = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.mean, updates)
            square = jax.tree.map(
                lambda v, g: beta2 * v + (1 - beta2) * jnp.square(g), state.square, updates
            )
            new = AdamMoments(mean, square)
        # The direction is computed from the moments that are stored. Otherwise, XLA would read the
        # old moments after it has stored the new moments in the same memory, and would therefore
        # first copy the old moments.
        state = optax.tree.where(finite, new, state)
        mean, square = state[-2:]
        if bias_correction:
            mean = optax.tree.bias_correction(mean, beta1, state.count)
            square = optax.tree.bias_correction(square, beta2, state.count)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mean, square)
        return direction, state

    return optax.GradientTransformationExtraArgs(init, update)


def decay_mask(
    params: optax.Params,
    *,
    excludes: Literal["bias_and_layer_norm", "nothing"] = "bias_and_layer_norm",
) -> optax.Params:
    """Returns True for parameters that decay: by default all except biases and LayerNorm scales."""
    names = ("bias", "scale") if excludes == "bias_and_layer_norm" else ()
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in names, params)


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Returns LAMB's scaling of each tensor's update by ||parameter|| / ||update||.

    The ratio is 1 if a norm is 0. Each layer of a stacked tensor has its own ratio.
    `optax.scale_by_trust_ratio` would compute one ratio for the whole stack.
    """

    def rescale(update: Array, param: Array) -> Array:
        # No reshape, because flattening an array that is sharded over devices would gather it.
        of_update, of_param = optax.tree.norm(update), optax.tree.norm(param)
        defined = (of_update > 0) & (of_param > 0)
        return update * jnp.where(defined, of_param / of_update, 1)

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        def of_leaf(path: tuple, update: Array, param: Array) -> Array:
            # The path decides: by shape, a tensor with as many rows as layers would look stacked.
            stacked = tuple(key.key for key in path[:2]) == STACKED_LAYERS
            return (jax.vmap(rescale) if stacked else rescale)(update, param)

        return jax.tree_util.tree_map_with_path(of_leaf, updates, params)

    return optax.stateless(update)


class FiniteOnly(optax.GradientTransformationExtraArgs):
    """An optimizer whose update takes `finite`, bool []; if it is False, only counts advance."""


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> FiniteOnly:
    """Returns the optimizer of a config. Its update takes `finite`, bool [], by default True.

    If `finite` is False, the state of another optimizer than ours becomes that of `without_update`.
    """
    built = config.build(schedule)
    if isinstance(built, FiniteOnly):
        return built
    inner = optax.with_extra_args_support(built)

    def update(updates: Any, state: Any, params: Any = None, *, finite: Any = True, **more: Any):
        updates, new = inner.update(updates, state, params, **more)
        return updates, optax.tree.where(finite, new, without_update(state))

    return FiniteOnly(inner.init, update)


def _adamw_or_lamb(config: OptimizerConfig, schedule: optax.Schedule) -> FiniteOnly:
    """Returns the chain: clipping, Adam, weight decay, trust ratios (LAMB only), learning rate.

    Its update passes `finite` to `scale_by_adam`.

    The gradient of the global batch is clipped by its norm. The published TPU code instead clips
    the gradient of each replica before the sum. torch divides by the norm + 1e-6, not by the norm.

    LAMB without bias correction and with `trust_ratio` 'decayed' is the LAMB of ALBERT
    (google-research/albert, lamb_optimizer.py). LAMB with bias correction is the LAMB of MLPerf's
    reference and of NVIDIA's FusedLAMB (apex, multi_tensor_lamb.cu). FusedLAMB's `use_nvlamb=True`
    corresponds to `trust_ratio` 'all'. If `weight_decay` is 0, FusedLAMB uses no trust ratios, but
    ALBERT and this code do.
    """
    direction = scale_by_adam(
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        bias_correction=config.bias_correction,
    )
    decays = partial(decay_mask, excludes=config.decay_excludes)
    transforms = [
        clip_by_global_norm(config.max_grad_norm),
        direction,
        optax.add_decayed_weights(config.weight_decay, mask=decays),
    ]
    if config.name == "lamb":
        adapted = partial(decay_mask, excludes="nothing") if config.trust_ratio == "all" else decays
        transforms.append(optax.masked(scale_by_trust_ratio(), adapted))
    return FiniteOnly(*optax.chain(*transforms, optax.scale_by_learning_rate(schedule)))


def without_update(opt_state: optax.OptState) -> optax.OptState:
    """Returns the optimizer state after a step without an update.

    Only the schedule's count advances, so the learning rate depends on the step alone. The moments
    and Adam's step count do not change.
    """

    def after(state: Any) -> Any:
        if isinstance(state, optax.ScaleByScheduleState):
            return state._replace(count=optax.safe_increment(state.count))
        return state

    schedule = optax.ScaleByScheduleState
    return jax.tree.map(after, opt_state, is_leaf=lambda node: isinstance(node, schedule))


def restart_moments(
    opt_state: optax.OptState,
    fresh: optax.OptState,
    *,
    moments: Literal["kept", "recounted", "zeroed"],
) -> optax.OptState:
    """Returns the optimizer state at the start of a phase; the schedule's step count continues.

    `fresh` is a new state, from the optimizer's `init`. If `moments` is 'recounted', the moments
    are kept and Adam's step count becomes 0, as with --phase2 in NVIDIA/DeepLearningExamples'
    run_pretraining.py. Adam without bias correction has no step count, so 'recounted' has the same
    effect as 'kept'.
    """

    def at_start(old: Any, new: Any) -> Any:
        if moments == "kept" or isinstance(old, optax.ScaleByScheduleState):
            return old
        if moments == "recounted":
            return old._replace(count=new.count) if isinstance(old, optax.ScaleByAdamState) else old
        return new

    states = (optax.ScaleByScheduleState, optax.ScaleByAdamState, AdamMoments)
    return jax.tree.map(at_start, opt_state, fresh, is_leaf=lambda node: isinstance(node, states))
