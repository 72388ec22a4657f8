"""The layout of arrays: a mesh of devices, and rules that map named dimensions to mesh axes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.config import check_bounds
from bert_jax.errors import ConfigError, require

MESH_AXES = ("data", "fsdp", "tensor")

MeshAxis = str | tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Number of devices along each mesh axis. One of the sizes may be -1: all remaining devices."""

    data: int = -1
    """Number of copies of the parameters. Each copy processes its own rows of the batch. Must be a
    multiple of the number of slices (TPU) or nodes (GPU)."""
    fsdp: int = 1
    """Number of parts into which parameters, optimizer state and the batch's rows are cut."""
    tensor: int = 1
    """Number of parts into which heads, feed-forward blocks and the vocabulary are cut."""

    def __post_init__(self):
        check_bounds(self, "mesh")
        sizes = (self.data, self.fsdp, self.tensor)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ConfigError(
                f"mesh is {self.data} x {self.fsdp} x {self.tensor} (data, fsdp, tensor); "
                "accepted: sizes of at least 1, one of them -1 for the remaining devices"
            )


@dataclass(frozen=True, kw_only=True)
class ShardingRules:
    """The mesh axes along which each named dimension is cut; None keeps a dimension whole.

    The hidden dimension has two names, `embed` in parameters and `activation_embed` in activations,
    because an array can use a mesh axis only once, and `batch` cuts activations along `fsdp`.
    """

    vocab: MeshAxis = "tensor"
    embed: MeshAxis = "fsdp"
    heads: MeshAxis = "tensor"
    head_dim: MeshAxis = None
    mlp: MeshAxis = "tensor"
    positions: MeshAxis = None
    segments: MeshAxis = None
    classes: MeshAxis = None
    layers: MeshAxis = None

    batch: MeshAxis = ("data", "fsdp")
    length: MeshAxis = None
    predictions: MeshAxis = None
    activation_embed: MeshAxis = None
    activation_vocab: MeshAxis = "tensor"

    def __post_init__(self):
        check_bounds(self, "sharding")
        accepted = f"{', '.join(MESH_AXES)}, null"
        for field in fields(self):
            for axis in _as_tuple(getattr(self, field.name)):
                require(axis in MESH_AXES, f"sharding.{field.name}", axis, accepted)
        resolve(("batch", "length", "activation_embed"), self)
        resolve(("batch", "predictions", "activation_vocab"), self)


def slice_of(device: Any) -> int | None:
    """Returns the number of the device's slice (TPU) or node (GPU); None if jax does not know it.

    A slower network connects devices of different slices.
    """
    return getattr(device, "slice_index", None)


def make_mesh(
    config: MeshConfig,
    devices: Sequence[Any] | None = None,
    *,
    slice_of_device: Callable[[Any], int | None] | None = None,
) -> Mesh:
    """Returns the mesh with the axes data, fsdp and tensor; an unused axis has size 1.

    Only the axis data crosses the network between slices: its first part is in the first slice, and
    so on. A single process may leave devices unused. Several processes must use all devices.

    Args:
      devices: the devices of the mesh; by default all devices of jax.
      slice_of_device: returns the number of a device's slice; by default `slice_of`.

    Raises:
      ConfigError: the sizes do not suit the number of devices or of slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [config.data, config.fsdp, config.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    needed = math.prod(sizes)
    if -1 in sizes or needed > len(devices) or (needed < len(devices) and jax.process_count() > 1):
        raise ConfigError(
            f"mesh is {config.data} x {config.fsdp} x {config.tensor} (data, fsdp, tensor) "
            f"but there are {len(devices)} devices; accepted: sizes with that product, or "
            "with a smaller product in a single process"
        )
    slices = _by_slice(devices[:needed], slice_of_device or slice_of)
    if sizes[0] % len(slices):
        size = len(slices[0])
        tensor = math.gcd(sizes[2], size)
        fsdp = math.gcd(sizes[1], size // tensor)
        raise ConfigError(
            f"mesh is {config.data} x {config.fsdp} x {config.tensor} (data, fsdp, tensor) on "
            f"{len(slices)} slices or nodes of {size} devices; accepted: a mesh.data that is a "
            f"multiple of {len(slices)}, because only this axis may cross the network between "
            f"them, such as {needed // fsdp // tensor} x {fsdp} x {tensor}"
        )
    inner = (sizes[0] // len(slices), *sizes[1:])
    parts = [jax.make_mesh(inner, MESH_AXES, devices=part).devices for part in slices]
    return Mesh(np.concatenate(parts), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def _by_slice(devices: Sequence[Any], number: Callable[[Any], int | None]) -> list[list[Any]]:
    """Returns the devices of each slice; raises ConfigError if the slices have unequal sizes."""
    slices: dict[int | None, list[Any]] = {}
    for device in devices:
        slices.setdefault(number(device), []).append(device)
    sizes = {len(part) for part in slices.values()}
    if len(sizes) > 1:
        raise ConfigError(
            f"the slices or nodes have {', '.join(map(str, sorted(sizes)))} devices; accepted: the "
            "same number of devices in each"
        )
    return [part for _, part in sorted(slices.items(), key=lambda item: item[0] or 0)]


def resolve(names: Sequence[str | None], rules: ShardingRules) -> PartitionSpec:
    """Returns the partition spec of an array with named dimensions.

    Raises:
      ConfigError: a name has no rule, or two dimensions use the same mesh axis.
    """
    known = [field.name for field in fields(rules)]
    spec, taken = [], {}
    for name in names:
        if name is not None and name not in known:
            raise ConfigError(f"no sharding rule for dimension {name!r}; known: {', '.join(known)}")
        axes = None if name is None else getattr(rules, name)
        for axis in _as_tuple(axes):
            if axis in taken:
                raise ConfigError(
                    f"dimensions {taken[axis]!r} and {name!r} of one array both use the mesh axis "
                    f"{axis!r}; change sharding.{taken[axis]} or sharding.{name}"
                )
            taken[axis] = name
        spec.append(axes)
    return PartitionSpec(*spec)


def named_sharding(
    names: Sequence[str | None],
    *,
    rules: ShardingRules,
    mesh: Mesh,
    shape: Sequence[int],
    what: str,
) -> NamedSharding:
    """Returns the sharding of an array with named dimensions.

    Raises:
      ConfigError: see `resolve`; or the array (`what` in messages) cannot be cut into equal parts.
    """
    spec = resolve(names, rules)
    for size, name, axes in zip(shape, names, spec, strict=True):
        parts = math.prod(mesh.shape[axis] for axis in _as_tuple(axes))
        if size % parts:
            more = f", or model.vocab_multiple={math.lcm(128, parts)}" if name == "vocab" else ""
            product = _product(axes)
            raise ConfigError(
                f"{what}: dimension {name!r} has size {size}, but the mesh cuts it into {parts} "
                f"parts ({product}); accepted: {product}={math.gcd(size, parts)} or another "
                f"divisor of {size}{more}"
            )
    return NamedSharding(mesh, spec)


def row_sharding(
    size: int, field: str, *, rules: ShardingRules, mesh: Mesh, microbatches: int = 1
) -> NamedSharding:
    """Returns the sharding of the rows of a batch. It is the same for any number of rows.

    Raises:
      ConfigError: microbatches or devices cannot get equal numbers of the `size` rows, which the
        config field `field` gives.
    """
    sharding = NamedSharding(mesh, resolve(("batch",), rules))
    parts = num_parts(sharding)
    if size % (parts * microbatches):
        multiple = parts * microbatches
        nearest = max(1, round(size / multiple)) * multiple
        product = _product(rules.batch)
        split = f" in {microbatches} microbatches" if microbatches > 1 else ""
        raise ConfigError(
            f"{field} is {size}{split}, but the mesh cuts the rows into {parts} parts ({product}); "
            f"accepted: {field}={nearest} or another multiple of {multiple}, or a mesh with "
            f"{product}={math.gcd(size // microbatches, parts)}"
        )
    return sharding


def num_parts(sharding: NamedSharding) -> int:
    """Returns the number of parts into which the first dimension of an array is cut."""
    return math.prod(sharding.mesh.shape[axis] for axis in _as_tuple(sharding.spec[0]))


def cut_last(sharding: NamedSharding, shape: Sequence[int], rules: ShardingRules) -> NamedSharding:
    """Cuts the last dimension of a parameter along the axes of `embed`, if no dimension uses them.

    Biases have no dimension `embed`. A bias that they do not divide stays as it is.
    """
    spec, mesh = list(sharding.spec), sharding.mesh
    axes = _as_tuple(rules.embed)
    if not spec or set(axes) & {axis for cut in spec for axis in _as_tuple(cut)}:
        return sharding
    axes = (*_as_tuple(spec[-1]), *axes)
    if not axes or shape[-1] % math.prod(mesh.shape[axis] for axis in axes):
        return sharding
    return NamedSharding(mesh, PartitionSpec(*spec[:-1], axes))


def constrain(x: jax.Array, names: Sequence[str | None], rules: ShardingRules | None) -> jax.Array:
    """Constrains the sharding of an activation. If there are no rules or no mesh, returns `x`."""
    if rules is None or jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, resolve(names, rules))


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def whole_rows(table: jax.Array, names: tuple[str, str], rules: ShardingRules | None) -> jax.Array:
    """Returns a table whose second dimension is whole on every device, for all uses of the table.

    The gradients of all uses are added first. Their sum is cut like the table, so each device
    receives only its own part of the sum over the devices.
    """
    return constrain(table, (names[0], None), rules)


whole_rows.defvjp(
    lambda table, names, rules: (whole_rows(table, names, rules), None),
    lambda names, rules, _, gradient: (constrain(gradient, names, rules),),
)


def _product(axes: MeshAxis) -> str:
    return " x ".join(f"mesh.{axis}" for axis in _as_tuple(axes))


def _as_tuple(axes: MeshAxis) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else tuple(axes or ())
