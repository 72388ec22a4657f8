"""Stores rows of pairs as records of array_record files.

A record is a little-endian array of uint16, or of uint32 if the vocabulary exceeds 65,536 pieces.
It holds for each pair: the length of A, the length of B, the label, the ids of A, the ids of B.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from bert_jax.data.pairs import Pair
from bert_jax.errors import DataError, UnfinishedError
from bert_jax.files import sha256_of_file

HEADER_LENGTH = 3


def record_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """Returns the type of the numbers in a record."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def encode_pairs(pairs: Sequence[Pair], *, dtype: str) -> list[bytes]:
    """Encodes each pair; a record is the concatenation of the encoded pairs of its row."""
    values = ((len(pair.a), len(pair.b), pair.label, *pair.a, *pair.b) for pair in pairs)
    # One array for all pairs: an array for each pair would take twice the time.
    encoded = np.fromiter(chain.from_iterable(values), _little_endian(dtype)).tobytes()
    width = np.dtype(dtype).itemsize
    lengths = (width * (HEADER_LENGTH + len(pair.a) + len(pair.b)) for pair in pairs)
    return [encoded[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]


def count_tokens(encoded: Iterable[bytes], *, dtype: str, vocab_size: int) -> np.ndarray:
    """Returns how often each id occurs in the encoded pairs, int64 [vocab_size]."""
    header_bytes = HEADER_LENGTH * np.dtype(dtype).itemsize
    ids = b"".join(pair[header_bytes:] for pair in encoded)
    return np.bincount(np.frombuffer(ids, _little_endian(dtype)), minlength=vocab_size)


def decode_rows(records: Iterable[bytes], *, dtype: str) -> list[list[Pair]]:
    """Returns the pairs of each record; their ids are read-only arrays of `dtype`."""
    rows = []
    for record in records:
        values = np.frombuffer(record, _little_endian(dtype))
        pairs, end = [], 0
        while end < len(values):
            a_length, b_length, label = values[end : end + HEADER_LENGTH].tolist()
            start = end + HEADER_LENGTH
            a_end = start + a_length
            end = a_end + b_length
            pairs.append(Pair(values[start:a_end], values[a_end:end], label))
        rows.append(pairs)
    return rows


def open_split(directory: str | Path, passport: dict, *, split: str) -> ArrayRecordDataSource:
    """Opens the records of a split for random access, numbered from 0 over all its shards.

    Raises:
      DataError: a shard is missing or damaged, or the number of records differs from the passport.
        A record that is damaged inside raises DataError only when it is read.
    """
    shards = passport["splits"][split]["shards"]
    paths = [Path(directory) / shard["file"] for shard in shards]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} is missing; accepted: every shard that the passport names")
    source = _Shards([str(path) for path in paths])
    count = sum(shard["examples"] for shard in shards)
    if len(source) != count:
        raise DataError(
            f"{directory} holds {len(source)} {split} records; "
            f"accepted: the {count} that its passport counts"
        )
    return source


class _Shards(ArrayRecordDataSource):
    """Adds the file name to array_record's errors, which give only the position in the file."""

    def __init__(self, paths: Sequence[str]):
        try:
            super().__init__(paths)
        except RuntimeError as error:
            if len(paths) == 1:
                raise _damaged(paths[0], error) from error
            for path in paths:
                _Shards([path])
            raise

    def __getitem__(self, record_key: SupportsIndex) -> bytes:
        try:
            return super().__getitem__(record_key)
        except RuntimeError as error:
            number, _ = self._reader_idx_and_position(record_key)
            raise _damaged(self._paths[number], error) from error

    def __getitems__(self, record_keys: Sequence[SupportsIndex]) -> Sequence[bytes]:
        try:
            return super().__getitems__(record_keys)
        except RuntimeError:
            return [self[key] for key in record_keys]  # raises for the damaged record


def _damaged(path: str, error: RuntimeError) -> DataError:
    return DataError(
        f"{path} is damaged ({str(error).split(';')[0]}); run the prepare command again to replace "
        "it"
    )


def _little_endian(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def write_records(records: Iterable[bytes], *, path: Path) -> str:
    """Writes the file atomically and returns its SHA-256.

    Raises:
      UnfinishedError: the disk is full, or the directory cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    # A group holds one record, so a record can be read alone. Compressing each record would save
    # little space, and reading would take several times as long.
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    try:
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:  # array_record raises it for every system error
        temporary.unlink(missing_ok=True)
        raise UnfinishedError(
            f"{path} cannot be written: {str(error).split(';')[0]}; finished shards are kept, and "
            "the same command continues from them"
        ) from error
    digest = sha256_of_file(temporary)
    os.replace(temporary, path)
    return digest


def write_array(array: np.ndarray, *, path: Path) -> None:
    """Writes a `.npy` file atomically."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as stream:
        np.save(stream, array)
    os.replace(temporary, path)
