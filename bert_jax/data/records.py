"""Stores rows of pairs as records of array_record files.

A record is a little-endian array of uint16, or of uint32 if the vocabulary exceeds 65,536 pieces.
It holds for each pair: the length of A, the length of B, the label, the ids of A, the ids of B.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from bert_jax.data.pairs import Pair
from bert_jax.data.remote import local_file
from bert_jax.errors import DataError, UnfinishedError
from bert_jax.files import replacing, sha256_of_file

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


def decode_row(record: bytes, *, dtype: np.dtype) -> list[Pair]:
    """Returns the pairs of a record; their ids are read-only arrays of `dtype`.

    Raises:
      DataError: the record is empty, or its lengths do not add up to its size.
    """
    width = dtype.itemsize
    if not record or len(record) % width:
        raise DataError(f"has {len(record)} bytes; accepted: a positive multiple of {width}")
    values = np.frombuffer(record, dtype)
    pairs, end = [], 0
    while end < len(values):
        start = end + HEADER_LENGTH
        a_length, b_length, label = [*values[end:start].tolist(), 0, 0, 0][:HEADER_LENGTH]
        a_end = start + a_length
        end = a_end + b_length
        if end > len(values):
            raise DataError(
                f"has {len(values)} numbers, but its pairs take {end}; accepted: as many numbers "
                "as the lengths of its texts say"
            )
        if label > 1:
            raise DataError(f"has the label {label}; accepted: 0 or 1")
        pairs.append(Pair(values[start:a_end], values[a_end:end], label))
    return pairs


def open_split(directory: str | Path, passport: dict, *, split: str) -> "RecordSource":
    """Opens the records of a split for random access, numbered from 0 over all its shards.

    Raises:
      DataError: a shard is missing or damaged, or the number of records differs from the passport.
        A record that is damaged inside raises DataError only when it is read.
    """
    shards = passport["splits"][split]["shards"]
    paths = [local_file(directory, shard["file"], sha256=shard["sha256"]) for shard in shards]
    source = RecordSource([str(path) for path in paths], passport)
    count = sum(shard["examples"] for shard in shards)
    if len(source) != count:
        raise DataError(
            f"{directory} holds {len(source)} {split} records; "
            f"accepted: the {count} that its passport counts"
        )
    return source


class RecordSource(ArrayRecordDataSource):
    """The records of a split. Errors name the file, which array_record's own errors do not."""

    def __init__(self, paths: Sequence[str], passport: dict):
        self._dtype = _little_endian(passport["record_dtype"])
        self._vocab_size = passport["vocab_size"]
        try:
            super().__init__(paths)
        except RuntimeError as error:
            if len(paths) == 1:
                raise _damaged(paths[0], _first_clause(error)) from error
            for path in paths:
                RecordSource([path], passport)
            raise

    def rows(self, indices: Sequence[int]) -> list[list[Pair]]:
        """Returns the pairs of each record; their ids are read-only arrays.

        Raises:
          DataError: a record cannot be read, is cut, or has an id beyond the vocabulary.
        """
        # A single call reads all records: separate calls take ten times as long. It fails on an
        # empty request. Beyond the end of a file that was cut, array_record returns b"".
        records = self.__getitems__(indices) if len(indices) else []
        rows = []
        for index, record in zip(indices, records, strict=True):
            try:
                rows.append(decode_row(record, dtype=self._dtype))
            except DataError as error:
                raise self.damaged_record(index, error) from error
        # One maximum for all records takes a tenth of the time of one for each.
        if rows and np.frombuffer(b"".join(records), self._dtype).max() >= self._vocab_size:
            for index, pairs in zip(indices, rows, strict=True):
                ids = np.concatenate([text for pair in pairs for text in (pair.a, pair.b)])
                if ids.max(initial=0) >= self._vocab_size:
                    problem = f"has the id {ids.max()}; accepted: below {self._vocab_size}"
                    raise self.damaged_record(index, problem)
        return rows

    def damaged_record(self, index: SupportsIndex, problem: DataError | str) -> DataError:
        """Returns an error that names the file and the record."""
        path, position = self.place(index)
        return _damaged(path, f"record {position} {problem}")

    def place(self, index: SupportsIndex) -> tuple[str, int]:
        """Returns the file of a record, and the number of the record in this file, from 0."""
        number, position = self._reader_idx_and_position(index)
        return self._paths[number], position

    def __getitem__(self, record_key: SupportsIndex) -> bytes:
        try:
            return super().__getitem__(record_key)
        except RuntimeError as error:
            raise _damaged(self.place(record_key)[0], _first_clause(error)) from error

    def __getitems__(self, record_keys: Sequence[SupportsIndex]) -> Sequence[bytes]:
        try:
            return super().__getitems__(record_keys)
        except RuntimeError:
            return [self[key] for key in record_keys]  # raises for the damaged record


def _first_clause(error: RuntimeError) -> str:
    """Returns what array_record says before it repeats the position in the file."""
    return str(error).partition(";")[0]


def _damaged(path: str, problem: Exception | str) -> DataError:
    return DataError(f"{path} is damaged ({problem}); run the prepare command again to replace it")


def _little_endian(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def write_records(records: Iterable[bytes], *, path: Path) -> str:
    """Writes the file atomically and returns its SHA-256.

    Raises:
      UnfinishedError: the disk is full, or the directory cannot be written.
    """
    with replacing(path) as temporary:
        # A group holds one record, so a record can be read alone. Compressing each record would
        # save little space, and reading would take several times as long.
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        try:
            for record in records:
                writer.write(record)
            writer.close()
        except RuntimeError as error:  # array_record raises it for every system error
            raise UnfinishedError(
                f"{path} cannot be written: {str(error).split(';')[0]}; finished shards are kept, "
                "and the same command continues from them"
            ) from error
        return sha256_of_file(temporary)
