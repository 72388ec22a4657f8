"""`parquet:GLOB[:FIELD]`: a column of Parquet files, read with pyarrow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from bert_jax.data.sources.base import ByteRange, Document, text_of
from bert_jax.data.sources.files import open_file
from bert_jax.errors import DataError
from bert_jax.files import parsing

_ACCEPTED = "a whole Parquet file"
_BATCH_ROWS = 256
_LARGEST_RATIO, _SMALL = 100, 2**26
"""A row group may inflate to 64 MiB or to 100 times the size of its file. Text inflates tenfold."""


@dataclass(frozen=True)
class ParquetFile:
    path: str
    size: int
    field: str
    """Name of the column that holds the text."""

    def read(self, byte_range: ByteRange) -> Iterator[Document | DataError]:
        with open_file(self.path) as stream:
            file = open_parquet(stream, self.path, self.size)
            with parsing(self.path, accepted=_ACCEPTED):
                columns, rows = file.schema_arrow.names, file.metadata.num_rows
                paths = [file.schema.column(i).path for i in range(len(file.schema))]
            if not any(f"{path}.".startswith(f"{self.field}.") for path in paths):
                raise DataError(
                    f"{self.path} has no column {self.field!r}, but {', '.join(columns)}; "
                    "accepted: parquet:GLOB:FIELD"
                )
            first = byte_range.start * rows // self.size
            last = byte_range.end * rows // self.size
            for row, value in read_rows(file, self.path, first, last, columns=[self.field]):
                name, place = f"{self.path}:{self.field}@{row}", f"{self.path}@{row}"
                read = partial(text_of, value, self.field, place=partial(str, place))
                text = byte_range.attempt(read)
                yield Document(name, text) if isinstance(text, str) else text


def open_parquet(stream: BinaryIO, path: str, size: int) -> Any:
    """Returns the `pyarrow.parquet.ParquetFile` of a stream. `path` and `size` are of the file.

    Raises:
      DataError: pyarrow is not installed, or the file is damaged.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow: pip install -e '.[corpora]'") from error
    with parsing(path, accepted=_ACCEPTED):
        # There is no read-ahead, because a row group may be larger than memory.
        file = parquet.ParquetFile(stream, pre_buffer=False)
        _check_sizes(file.metadata, limit=max(_SMALL, _LARGEST_RATIO * size))
    return file


def read_rows(
    file: Any, path: str, first: int, last: int, *, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and the columns (default: all) of each row from `first` to `last - 1`.

    A column within a structure is an object in an object.

    Raises:
      DataError: the file is damaged.
    """
    group_start = 0
    with parsing(path, accepted=_ACCEPTED):
        for group in range(file.metadata.num_row_groups):
            group_end = group_start + file.metadata.row_group(group).num_rows
            if group_start < last and group_end > first:
                row = group_start
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                    kept = range(max(row, first), min(row + len(batch), last))
                    values = batch.slice(max(0, kept.start - row), len(kept))
                    yield from zip(kept, values.to_pylist(), strict=True)
                    row += len(batch)
                    if row >= last:
                        return
            group_start = group_end


def _check_sizes(metadata, *, limit: int) -> None:
    """Raises ValueError if a row group declares that it inflates to more than `limit` bytes.

    pyarrow aborts the process when it reads damaged metadata of a column, so only the sum for all
    columns of a row group is read.
    """
    for group in range(metadata.num_row_groups):
        if metadata.row_group(group).total_byte_size > limit:
            raise ValueError(f"row group {group} inflates to more than {limit:,} bytes")
