"""Pairs as records of array_record files.

A record is little-endian uint16, or uint32 for a vocabulary of more than 65,536: the length of A,
the length of B, the label, then the ids of A and of B.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from bert_jax.data.pairs import Pair
from bert_jax.errors import DataError

HEADER_LENGTH = 3


def record_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    return "uint16" if vocab_size <= 2**16 else "uint32"


def encode_records(pairs: Sequence[Pair], *, dtype: str) -> list[bytes]:
    values = ((len(pair.a), len(pair.b), pair.label, *pair.a, *pair.b) for pair in pairs)
    # All at once: an array for each would take twice the time.
    encoded = np.fromiter(chain.from_iterable(values), _little_endian(dtype)).tobytes()
    width = np.dtype(dtype).itemsize
    lengths = (width * (HEADER_LENGTH + len(pair.a) + len(pair.b)) for pair in pairs)
    return [encoded[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]


def count_tokens(records: Iterable[bytes], *, dtype: str, vocab_size: int) -> np.ndarray:
    """How often each id stands in the records, int64 [vocab_size]."""
    header_bytes = HEADER_LENGTH * np.dtype(dtype).itemsize
    ids = b"".join(record[header_bytes:] for record in records)
    return np.bincount(np.frombuffer(ids, _little_endian(dtype)), minlength=vocab_size)


def decode_records(records: Iterable[bytes], *, dtype: str) -> list[Pair]:
    """The pairs, their ids as read-only arrays of `dtype`."""
    return [_decode_record(record, dtype=_little_endian(dtype)) for record in records]


def _decode_record(record: bytes, *, dtype: np.dtype) -> Pair:
    values = np.frombuffer(record, dtype)
    b_start = HEADER_LENGTH + int(values[0])
    b_end = b_start + int(values[1])
    return Pair(values[HEADER_LENGTH:b_start], values[b_start:b_end], int(values[2]))


def _little_endian(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def write_records(records: Iterable[bytes], *, path: Path) -> str:
    """Writes the file whole or not at all, and returns its SHA-256.

    Raises:
      DataError: the disk is full, or the directory cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    # Groups of one, so that single records can be read. Compressed one by one they would hardly
    # be smaller and take several times as long.
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    try:
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:  # what array_record makes of every error of the system
        temporary.unlink(missing_ok=True)
        raise DataError(
            f"{path} cannot be written: {str(error).split(';')[0]}; finished shards are kept, the "
            "same command goes on from them"
        ) from error
    digest = sha256_of_file(temporary)
    os.replace(temporary, path)
    return digest


def sha256_of_file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
