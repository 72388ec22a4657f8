"""Rows are encoded as little-endian records without loss, and files are written completely."""

import hashlib
import resource
from contextlib import contextmanager

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource

from bert_jax.data.pairs import Pair
from bert_jax.data.records import (
    count_tokens,
    decode_row,
    encode_pairs,
    record_dtype,
    write_records,
)
from bert_jax.errors import DataError


@pytest.mark.parametrize(("dtype", "largest"), [("uint16", 2**16 - 1), ("uint32", 2**32 - 1)])
def test_records_round_trip(dtype, largest):
    pairs = [Pair([1, largest], [0], 1), Pair([5, 6, 7], [], 0)]
    records = encode_pairs(pairs, dtype=dtype)
    decoded = [decode_row(record, dtype=np.dtype(dtype)) for record in records]
    assert [[Pair(a.tolist(), b.tolist(), label)] for ((a, b, label),) in decoded] == [
        [pair] for pair in pairs
    ]
    assert len(records[0]) == np.dtype(dtype).itemsize * 6


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_packed_rows_round_trip(dtype):
    pairs = [Pair([1, 2], [3], 1), Pair([4], [], 0), Pair([5], [6, 7], 0), Pair([], [8], 1)]
    rows = [pairs[:3], pairs[3:], pairs[1:2]]
    records = [b"".join(encode_pairs(row, dtype=dtype)) for row in rows]
    decoded = [decode_row(record, dtype=np.dtype(dtype)) for record in records]
    assert [[Pair(a.tolist(), b.tolist(), label) for a, b, label in row] for row in decoded] == rows


def test_record_bytes_are_little_endian():
    (record,) = encode_pairs([Pair([258], [3], 1)], dtype="uint16")
    assert record == bytes([1, 0, 1, 0, 1, 0, 2, 1, 3, 0])


def test_tokens_are_counted_without_the_headers():
    encoded = encode_pairs([Pair([1, 4], [4], 1), Pair([5, 4, 7], [], 0)], dtype="uint16")
    counts = count_tokens(encoded, dtype="uint16", vocab_size=9)
    assert counts.tolist() == [0, 1, 0, 0, 3, 1, 0, 1, 0]
    assert count_tokens([], dtype="uint16", vocab_size=3).tolist() == [0, 0, 0]


def test_dtype_holds_every_id():
    assert [record_dtype(size) for size in (2**16, 2**16 + 1)] == ["uint16", "uint32"]


def test_a_file_is_written_completely_and_its_hash_is_returned(tmp_path):
    path = tmp_path / "a.array_record"
    records = [bytes([i] * i) for i in range(1, 100)]
    digest = write_records(iter(records), path=path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    source = ArrayRecordDataSource([str(path)])
    assert source.__getitems__(range(len(source))) == records
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def file_size_limit(size):
    """Makes writes beyond `size` bytes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 10_000, 250_000], ids=["at-once", "on-the-way", "at-the-end"])
def test_a_full_disk_is_a_one_line_error_and_keeps_the_old_file(size, tmp_path):
    path = tmp_path / "a.array_record"
    path.write_bytes(b"before")
    rng = np.random.default_rng(0)
    records = [rng.bytes(100) for _ in range(2400)]
    with file_size_limit(size), pytest.raises(DataError, match="cannot be written: ") as error:
        write_records(records, path=path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
