"""The state of training: its initialization and its sharding."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jax.typing import ArrayLike

from bert_jax.data.batch import Batch
from bert_jax.data.config import DataConfig
from bert_jax.errors import ConfigError
from bert_jax.sharding import ShardingRules, cut_last, named_sharding


@struct.dataclass
class TrainState:
    """Everything that an update changes."""

    step: Any
    """Number of steps so far, int32. Dropout and the learning rate depend on it."""
    params: Any
    opt_state: optax.OptState


def example_batch(*, batch_size: int, length: int, predictions: int, pairs: int = 1) -> Batch:
    """Returns a batch of zeros with these shapes, for initialization and abstract evaluation."""
    ids = np.zeros((batch_size, length), np.int32)
    picked = np.zeros((batch_size, predictions), np.int32)
    pair = np.zeros((batch_size, pairs), np.int32)
    return Batch(
        token_ids=ids,
        segment_ids=ids,
        pack_ids=ids,
        mask_positions=picked,
        mask_labels=picked,
        mask_weights=picked.astype(np.float32),
        cls_positions=pair,
        pair_labels=pair,
        pair_weights=pair.astype(np.float32),
    )


def example_row(data: DataConfig) -> Batch:
    """Returns a batch of zeros with one row of the shape that the data have."""
    return example_batch(
        batch_size=1,
        length=data.sequence_length,
        predictions=data.masking.max_predictions,
        pairs=data.pairs_per_row,
    )


def random_stream(seed: ArrayLike, name: Literal["init", "dropout"]) -> Array:
    """Returns the random key for the initial parameters, or for dropout in all steps."""
    return jax.random.fold_in(jax.random.key(seed), {"init": 0, "dropout": 1}[name])


def init_params(model: nn.Module, seed: ArrayLike, *inputs: Any) -> Any:
    """Returns float32 parameters in flax's boxes, which hold the names of their dimensions.

    `inputs` are example inputs of the model, by default a `Batch`.
    """
    inputs = inputs or (example_batch(batch_size=1, length=1, predictions=1),)
    return model.init(random_stream(seed, "init"), *jax.tree.map(jnp.asarray, inputs))["params"]


def unboxed_params(model: nn.Module, seed: int, *inputs: Any) -> Any:
    """Returns the parameters of `init_params` as plain arrays."""
    return nn.unbox(init_params(model, seed, *inputs))


def abstract_params(model: nn.Module, sharding: Sharding, *inputs: Any) -> Any:
    """Returns the shapes and dtypes of the parameters, all with `sharding`. Computes nothing."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(lambda: unboxed_params(model, 0, *inputs)),
    )


def state_initializer(
    model: nn.Module, optimizer: optax.GradientTransformation, *, seed: int
) -> Callable[[], TrainState]:
    """Returns a function that makes the first state. Its parameters are boxed (`init_params`)."""

    def initialize(seed: ArrayLike) -> TrainState:
        params = init_params(model, seed)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(nn.unbox(params)))

    return jax.tree_util.Partial(initialize, np.uint32(seed))


def state_sharding(
    initialize: Callable[[], TrainState], *, mesh: Mesh, rules: ShardingRules
) -> TrainState:
    """Returns the sharding of every array of the state; moments are sharded like parameters.

    Raises:
      ConfigError: a dimension has no sharding rule, or the mesh does not divide it.
    """
    abstract = jax.eval_shape(initialize)
    shapes = nn.unbox(abstract.params)
    names = nn.get_partition_spec(abstract.params)
    by_path = {}
    for (path, leaf), spec in zip(
        jax.tree_util.tree_leaves_with_path(shapes),
        jax.tree.leaves(names, is_leaf=lambda x: isinstance(x, PartitionSpec)),
        strict=True,
    ):
        what = "/".join(str(key.key) for key in path)
        named = named_sharding(tuple(spec), rules=rules, mesh=mesh, shape=leaf.shape, what=what)
        by_path[path] = cut_last(named, leaf.shape, rules)
    shape_of = dict(jax.tree_util.tree_leaves_with_path(shapes))
    whole = NamedSharding(mesh, PartitionSpec())

    def of_moment(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        # The path of a moment ends with the path of its parameter.
        for start in range(len(path)):
            if path[start:] in by_path and shape_of[path[start:]].shape == leaf.shape:
                return by_path[path[start:]]
        if leaf.ndim:
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ConfigError(
                f"optimizer state {where} has another shape than the parameter with the same path"
            )
        return whole

    return TrainState(
        step=whole,
        params=jax.tree_util.tree_map_with_path(lambda path, _: by_path[path], shapes),
        opt_state=jax.tree_util.tree_map_with_path(of_moment, abstract.opt_state),
    )


def make_state(initialize: Callable[[], TrainState], sharding: TrainState) -> TrainState:
    """Makes the first state. Each device computes only its own part of the state."""
    # The seed in a Partial of `state_initializer` is an argument of the jitted function.
    return jax.jit(lambda make: nn.unbox(make()), out_shardings=sharding)(initialize)


def abstract_state(initialize: Callable[[], TrainState], sharding: TrainState) -> TrainState:
    """Returns shapes, dtypes and shardings of the state, and computes nothing."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        jax.eval_shape(lambda: nn.unbox(initialize())),
        sharding,
    )
