"""Reads the tensors of a `torch.save` file without torch, and without running code from the file.

A pickle is a program that may call any function it names. The unpickler of this module knows only
the names that a dictionary of tensors needs. It maps each name to a function or constant below.

References:
  https://github.com/pytorch/pytorch/blob/main/torch/serialization.py, both file formats
"""

import io
import math
import mmap
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from bert_jax.errors import CheckpointError, located
from bert_jax.files import parsing

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
DTYPES = tuple(np.dtype(storage).name for storage in STORAGES.values())
"""Names of the dtypes of tensors."""

WRAPPERS = ("model", "state_dict", "module")
"""Keys under which a training checkpoint (of NVIDIA, Lightning, DeepSpeed) has its tensors."""


class _StorageType(NamedTuple):
    dtype: str


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage. Offset, shape and strides are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, data: np.ndarray) -> np.ndarray:
        if math.prod(self.shape) > len(data):
            raise pickle.UnpicklingError("a tensor that is larger than its storage")
        width = data.itemsize
        strides = [stride * width for stride in self.strides]
        try:  # NumPy checks that the view lies in the storage
            view = np.ndarray(self.shape, data.dtype, data, self.offset * width, strides)
        except (TypeError, ValueError) as error:
            raise pickle.UnpicklingError("a tensor that reaches beyond its storage") from error
        if min(strides, default=0) < 0:
            raise pickle.UnpicklingError("a tensor with a negative stride")
        return view


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows only the functions and types that a state dictionary needs."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}
        """Every storage by its key, also those of objects that are not used."""

    def find_class(self, module: str, name: str) -> Any:
        # New objects at each call, because a pickle can set attributes of the objects it names.
        known: dict[tuple[str, str], Callable[..., Any] | _StorageType] = {
            ("collections", "OrderedDict"): lambda items=(): OrderedDict(items),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *fields: _Tensor(*fields[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            **{("torch", name): _StorageType(np.dtype(t).name) for name, t in STORAGES.items()},
        }
        if (module, name) not in known:
            raise CheckpointError(
                f"it names {module}.{name}, which a dictionary of tensors does not need; nothing "
                "was run; accepted: a file of tensors only, or safetensors"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        types = (kind, type(storage_type), type(key), type(size))
        if types != ("storage", _StorageType, str, int) or any(view):
            raise pickle.UnpicklingError("a reference to something other than a storage")
        self.storages[key] = _Storage(key, storage_type.dtype, size)
        return self.storages[key]


def _unpickle(stream: Any) -> tuple[Any, dict[str, _Storage]]:
    """Reads one pickle. Returns its object, and the storages by key.

    First checks that the pickle takes no more memory than its size suggests.
    The opcodes PUT and LONG_BINPUT store an object under a number. Python allocates a table up to
    the largest number: 20 bytes can take gigabytes. The numbers of a real file are consecutive,
    from 0 on, or from 1 in Python 2.
    """
    start, stored = stream.tell(), 0
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if not isinstance(argument, int) or argument > stored + 1:
                raise pickle.UnpicklingError(f"object {stored} of a pickle has number {argument}")
            stored += 1
    stream.seek(start)
    unpickler = _Unpickler(stream)
    return unpickler.load(), unpickler.storages


def read_torch(file: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a state dictionary by name. Legacy files are memory-mapped.

    Raises:
      CheckpointError: the file is truncated, or holds an object other than a tensor, or names a
        function that tensors do not need.
    """
    accepted = "a whole file that torch.save wrote from a state dictionary"
    with parsing(file, accepted=accepted, error=CheckpointError), file.open("rb") as opened:
        read = _read_zip if zipfile.is_zipfile(opened) else _read_legacy
        opened.seek(0)
        with located(file):
            return read(opened)


def _read_zip(opened: BinaryIO) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(opened) as archive:
        # torch.save compresses nothing, so all entries together are smaller than the file.
        entries, size = archive.infolist(), opened.seek(0, io.SEEK_END)
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError("its entries are compressed; accepted: as torch.save stores them")
        if sum(entry.file_size for entry in entries) > size:
            raise CheckpointError("its entries are larger than the file; accepted: a whole file")
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist():
            _check_little_endian(archive.read(f"{root}byteorder") == b"little")
        tensors = _tensors(_unpickle(io.BytesIO(archive.read(pickled)))[0])
        storages: dict[_Storage, np.ndarray] = {}
        for storage in {tensor.storage for tensor in tensors.values()}:
            dtype = np.dtype(storage.dtype)
            entry = archive.getinfo(f"{root}data/{storage.key}")
            if entry.file_size != storage.size * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {storage.key} has another size")
            storages[storage] = np.frombuffer(archive.read(entry), dtype)  # checks its CRC
    return {name: tensor.read(storages[tensor.storage]) for name, tensor in tensors.items()}


def _read_legacy(opened: BinaryIO) -> dict[str, np.ndarray]:
    """Reads a sequence of pickles, then each storage's size and elements."""
    # A read of a map never takes more memory than the file, whatever length a pickle declares.
    stream = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    header = [_unpickle(stream)[0] for _ in range(3)]
    if header[:2] != [MAGIC_NUMBER, PROTOCOL_VERSION]:
        raise pickle.UnpicklingError("not a file of torch.save")
    _check_little_endian(header[2]["little_endian"])
    loaded, by_key = _unpickle(stream)
    tensors = _tensors(loaded)
    mapped = np.frombuffer(stream, np.uint8)
    storages, keys, start = {}, _unpickle(stream)[0], stream.tell()
    for key in keys:
        storage = by_key[key]
        size = int(mapped[start : start + 8].view("<i8")[0])
        dtype = np.dtype(storage.dtype)
        end = start + 8 + size * dtype.itemsize
        if size != storage.size or end > len(mapped):
            raise pickle.UnpicklingError(f"storage {key} is cut short")
        storages[storage] = mapped[start + 8 : end].view(dtype)
        start = end
    return {name: tensor.read(storages[tensor.storage]) for name, tensor in tensors.items()}


def _check_little_endian(little: bool) -> None:
    if not little:
        raise CheckpointError("numbers are big-endian; accepted: little-endian")


def _tensors(loaded: Any) -> dict[str, _Tensor]:
    if isinstance(loaded, dict):
        loaded = next((loaded[w] for w in WRAPPERS if isinstance(loaded.get(w), dict)), loaded)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"it holds a {type(loaded).__name__}; accepted: names and tensors")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise CheckpointError(f"{name!r} is not a tensor; accepted: names and tensors only")
    return loaded
