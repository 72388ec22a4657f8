"""Reads and writes the files that hold tensors: safetensors, torch.save, flax; whole or in shards.

Reference: transformers 5.23.0; flax 0.12.8 (serialization.py).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import ml_dtypes  # noqa: F401, makes bfloat16 a dtype of NumPy
import msgpack
import numpy as np
import safetensors
import safetensors.numpy

from bert_jax.errors import CheckpointError
from bert_jax.files import FileName, parsing, read_json, write_atomically, write_json
from bert_jax.interop.torch_files import DTYPES, read_torch

Tensors = Mapping[str, np.ndarray]

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
)
"""Names of the file with the tensors. The first file that exists is read. An index names shards."""

SHARD_BYTES = 5_000_000_000
"""Maximum size of the tensors in a written file."""

MAX_DIMENSIONS = 32
"""Maximum length of a list in a flax file, such as a shape: a length takes memory before it is
compared with the size of the file."""


class _Index(TypedDict):
    """Fields of an index: the file of each tensor."""

    weight_map: dict[str, FileName]


def weights_file(directory: Path) -> Path | None:
    """Returns the file or index with the tensors of a directory; None if there is none."""
    return next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)


def read_weights(file: Path) -> Tensors:
    """Returns the tensors of a file, or of all shards that an index names, by name.

    Raises:
      CheckpointError: a file is missing or damaged, or has other tensors than the index says.
    """
    if file.suffix != ".json":
        return READERS[file.suffix](file)
    names: dict[str, set[str]] = {}
    for tensor, shard in read_json(file, _Index, error=CheckpointError)["weight_map"].items():
        names.setdefault(shard, set()).add(tensor)
    kind, tensors = Path(file.name.removesuffix(".index.json")).suffix, {}
    for shard in sorted(names):
        if Path(shard).suffix != kind:
            raise CheckpointError(f"{file} names {shard!r:.60}; accepted: names ending in {kind}")
        found = READERS[kind](file.with_name(shard))
        if differing := sorted(found.keys() ^ names[shard]):
            where = "holds" if differing[0] in found else "lacks"
            raise CheckpointError(
                f"{file.with_name(shard)} {where} {differing[0]:.100}, unlike {file.name}; "
                "accepted: the shards of this index"
            )
        tensors |= found
    return tensors


def read_safetensors(file: Path) -> Tensors:
    """Returns the tensors of a file by name.

    Raises:
      CheckpointError: the file is damaged or truncated.
    """
    with (
        parsing(file, accepted="a whole safetensors file", error=CheckpointError),
        safetensors.safe_open(file, framework="numpy") as opened,
    ):
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def write_safetensors(directory: Path, tensors: Tensors, *, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes `model.safetensors`; beyond `shard_bytes`, shards up to this size and their index."""
    shards, size = [{}], 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > shard_bytes:
            shards, size = [*shards, {}], 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        whole = f"model-{i:05}-of-{len(shards):05}.safetensors"
        name = whole if len(shards) > 1 else WEIGHTS[0]
        weight_map |= dict.fromkeys(shard, name)
        # transformers refuses a file without this metadata field.
        content = safetensors.numpy.save(shard, metadata={"format": "pt"})
        write_atomically(directory / name, content)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(directory / WEIGHTS[1], index)


def read_flax(file: Path) -> Tensors:
    """Returns the arrays of a `flax_model.msgpack` under the names of torch, transposed as there.

    Raises:
      CheckpointError: the file is damaged or truncated, or holds something other than arrays.
    """
    with parsing(file, accepted="a whole file of flax.serialization", error=CheckpointError):
        return dict(_named(_unpack(file.read_bytes()), ()))


def _unpack(content: bytes) -> Any:
    # msgpack compares all other lengths with the size of the content before it takes memory.
    return msgpack.unpackb(content, ext_hook=_array, max_array_len=MAX_DIMENSIONS)


def _array(code: int, content: bytes) -> np.ndarray:
    """Decodes msgpack's extension 1 of flax: (shape, name of the dtype, bytes)."""
    if code != 1:
        raise ValueError(f"it holds msgpack's extension {code}")
    shape, dtype, data = _unpack(content)
    if dtype not in DTYPES or min(shape, default=0) < 0:
        raise ValueError(f"it holds an array of {dtype!r:.60} with shape {shape!r:.60}")
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape)


def _named(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(node, dict) and "__msgpack_chunked_array__" in node:  # of 1 GiB or more
        shape = [node["shape"][str(i)] for i in range(len(node["shape"]))]
        chunks = [node["chunks"][str(i)] for i in range(len(node["chunks"]))]
        if math.prod(shape) != sum(chunk.size for chunk in chunks):
            raise ValueError("the parts of an array do not fit its shape")
        node = np.concatenate(chunks).reshape(shape)
    if isinstance(node, np.ndarray):
        *parents, name = path
        node = node.T if name == "kernel" else node
        name = {"kernel": "weight", "embedding": "weight", "scale": "weight"}.get(name, name)
        yield ".".join((*parents, name)), node
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _named(child, (*path, name))
    else:
        raise ValueError(f"{'.'.join(path) or 'it'} is no array ({type(node).__name__})")


READERS: dict[str, Callable[[Path], Tensors]] = {
    ".safetensors": read_safetensors,
    ".bin": read_torch,
    ".msgpack": read_flax,
}
