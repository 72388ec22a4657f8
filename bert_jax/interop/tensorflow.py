"""Reads Google's checkpoints, `bert_model.ckpt.{index,data-*}`, without TensorFlow.

The index is a sorted table in LevelDB's format. Each key is the name of a variable. Its value is a
protocol buffer that says where the variable's bytes are in the data files.

References:
  https://github.com/google/leveldb/blob/main/doc/table_format.md
  https://github.com/tensorflow/tensorflow (core/protobuf/tensor_bundle.proto, core/lib/io/table)
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import ml_dtypes
import numpy as np
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

from bert_jax.data.tokenizers.wordpiece import WordPiece
from bert_jax.errors import CheckpointError
from bert_jax.files import check_not_pointer, parsing
from bert_jax.interop.source import (
    Source,
    check_sizes,
    check_vocabulary,
    decide_casing,
    read_config,
)

MAX_WORD_LENGTH = 200
"""Limit of google-research/bert, in characters. Hugging Face's limit is 100."""

MAX_NAME_LENGTH = 512
"""Maximum length of a variable's name, in bytes. A name in the file may repeat the previous one, so
a small file could hold very long names."""

TABLE_MAGIC_NUMBER = 0xDB4775248B80FB57
FOOTER_SIZE = 48
BLOCK_TRAILER_SIZE = 5
"""Size of the compression type (1 byte) and the checksum (4 bytes)."""

DTYPES = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    9: np.int64,
    10: np.bool_,
    14: ml_dtypes.bfloat16,
    19: np.float16,
}
"""NumPy dtype for each number of TensorFlow's types.proto."""

# Field numbers of BundleHeaderProto, BundleEntryProto, TensorShapeProto and its Dim.
_NUM_SHARDS, _ENDIANNESS = 1, 2
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE, _CHECKSUM, _SLICES = 1, 2, 3, 4, 5, 6, 7
_DIM, _UNKNOWN_RANK, _DIM_SIZE = 2, 3, 1


class _Entry(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def checkpoint_prefix(path: Path) -> Path | None:
    """Returns the prefix `.../bert_model.ckpt` of a checkpoint or of its index file.

    Returns None if there is no index file.
    """
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    return prefix if prefix.name and _index_file(prefix).is_file() else None


def read_google(prefix: Path, *, lower_case: bool | None = None) -> Source:
    """Reads a checkpoint with the bert_config.json and vocab.txt beside it.

    No file says whether the model is cased. If `lower_case` is None, `decide_casing` decides.

    Raises:
      CheckpointError, DataError: the model is not a BERT, or a file is missing or damaged.
    """
    config = read_config(prefix.parent / "bert_config.json")
    vocabulary = prefix.parent / "vocab.txt"
    cased = WordPiece.from_vocabulary_file(
        vocabulary, lower_case=False, max_word_length=MAX_WORD_LENGTH
    )
    lower_case, reason = decide_casing(cased.pieces, lower_case)
    tokenizer = dataclasses.replace(cased, lower_case=lower_case)
    check_vocabulary(tokenizer, config, vocabulary)
    tensors = read_bundle(prefix)
    check_sizes(config, tensors, prefix.parent / "bert_config.json")
    return Source(config, tokenizer, tensors, "google", f"lower_case {lower_case}, {reason}")


def read_bundle(prefix: Path) -> dict[str, np.ndarray]:
    """Returns the variables of a checkpoint by name, and verifies their checksums.

    Raises:
      CheckpointError: a file is missing, damaged or truncated.
    """
    index = _index_file(prefix)
    accepted = "the whole index of a TensorFlow checkpoint"
    with parsing(index, accepted=accepted, error=CheckpointError):
        table = dict(_read_table(index.read_bytes()))
        header = protobuf_fields(table.pop(b""))
        shards = int(header.get(_NUM_SHARDS, [0])[0])
        entries = {key.decode(): _entry(value) for key, value in table.items()}
    if header.get(_ENDIANNESS, [0])[0] != 0:
        raise CheckpointError(f"{index}: numbers are big-endian; accepted: little-endian")
    data = [_map_file(prefix, shard, shards) for shard in range(shards)]
    with parsing(prefix, accepted="a whole TensorFlow checkpoint", error=CheckpointError):
        return {name: _read_variable(name, entry, data, prefix) for name, entry in entries.items()}


def _index_file(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _map_file(prefix: Path, shard: int, shards: int) -> np.ndarray:
    file = prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}")
    check_not_pointer(file, error=CheckpointError)
    with parsing(file, accepted="a file", error=CheckpointError):
        return np.memmap(file, np.uint8, "r") if file.stat().st_size else np.zeros(0, np.uint8)


def _read_variable(name: str, entry: _Entry, data: list[np.ndarray], prefix: Path) -> np.ndarray:
    shards = len(data)
    file = f"{prefix}.data-{entry.shard:05}-of-{shards:05}"
    if entry.shard >= shards or entry.offset + entry.size > len(data[entry.shard]):
        raise CheckpointError(f"{file} ends before the end of {name}; accepted: a whole file")
    content = data[entry.shard][entry.offset : entry.offset + entry.size]
    if entry.size != math.prod(entry.shape) * entry.dtype.itemsize:
        raise CheckpointError(f"{prefix}.index: {entry.size} bytes do not fit the shape of {name}")
    if _masked_checksum(content.tobytes()) != entry.checksum:
        raise CheckpointError(f"{file} is damaged: the checksum of {name} differs")
    return content.view(entry.dtype).reshape(entry.shape)


def _masked_checksum(content: bytes) -> int:
    """Returns the CRC-32C of bytes in the masked form that TensorFlow stores."""
    value = google_crc32c.value(content)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _entry(value: bytes) -> _Entry:
    fields = protobuf_fields(value)
    if fields.get(_SLICES):
        raise ValueError("a variable is saved in slices")
    number = int(fields.get(_DTYPE, [0])[0])
    if number not in DTYPES:
        raise ValueError(f"a variable has TensorFlow's dtype number {number}")
    shape = protobuf_fields(fields.get(_SHAPE, [b""])[0])
    if shape.get(_UNKNOWN_RANK):
        raise ValueError("a variable has no shape")
    sizes = (protobuf_fields(dim).get(_DIM_SIZE, [0])[0] for dim in shape.get(_DIM, []))
    return _Entry(
        np.dtype(DTYPES[number]),
        tuple(int(size) for size in sizes),
        *(int(fields.get(field, [0])[0]) for field in (_SHARD, _OFFSET, _SIZE, _CHECKSUM)),
    )


def protobuf_fields(message: bytes) -> dict[int, list]:
    """Returns the values of each field number: integers, or the bytes of nested messages.

    Raises:
      DecodeError: the message is damaged.
    """
    fields: dict[int, list] = {}
    for field in UnknownFieldSet(Empty.FromString(message)):
        fields.setdefault(field.field_number, []).append(field.data)
    return fields


# ---- LevelDB's table -----------------------------------------------------------------------------


def _read_table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields every key and value. Raises ValueError if the file is damaged."""
    footer = content[-FOOTER_SIZE:]
    if len(footer) < FOOTER_SIZE or int.from_bytes(footer[-8:], "little") != TABLE_MAGIC_NUMBER:
        raise ValueError("its last bytes are not those of a LevelDB table")
    _, start = _block_handle(footer, 0)  # skips the metadata block, which is always empty
    index, _ = _block_handle(footer, start)
    last = None
    for _, handle in _read_block(content, *index):
        for key, value in _read_block(content, *_block_handle(handle, 0)[0]):
            # A sorted table names no block twice, so reading it takes time for its size alone.
            if last is not None and key <= last:
                raise ValueError("its keys are not sorted")
            yield key, value
            last = key


def _block_handle(content: bytes, start: int) -> tuple[tuple[int, int], int]:
    """Decodes the handle of a block. Returns ((offset, size) of the block, next position)."""
    offset, start = _varint(content, start)
    size, start = _varint(content, start)
    return (offset, size), start


def _read_block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block = content[offset : offset + size + BLOCK_TRAILER_SIZE]
    if len(block) < size + BLOCK_TRAILER_SIZE or size < 4:
        raise ValueError("a block is cut short")
    if _masked_checksum(block[: size + 1]) != int.from_bytes(block[size + 1 :], "little"):
        raise ValueError("the checksum of a block differs")
    if block[size]:
        raise ValueError("a block is compressed")
    restarts = int.from_bytes(block[size - 4 : size], "little")
    end, start, key = size - 4 * (restarts + 1), 0, b""
    while start < end:
        shared, start = _varint(block, start)
        fresh, start = _varint(block, start)
        length, start = _varint(block, start)
        key = key[:shared] + block[start : start + fresh]
        if len(key) > MAX_NAME_LENGTH:
            raise ValueError(f"a name has more than {MAX_NAME_LENGTH} bytes")
        start += fresh
        yield key, block[start : start + length]
        start += length


def _varint(content: bytes, start: int) -> tuple[int, int]:
    """Decodes an integer from 7-bit groups, lowest first; returns (integer, next position)."""
    value = shift = 0
    while True:
        if shift > 63:
            raise ValueError("an integer has more than 64 bits")
        byte = content[start]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return value, start
