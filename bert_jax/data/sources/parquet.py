"""`parquet:GLOB[:FIELD]`: a column of Parquet files, read with pyarrow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, BinaryIO

from bert_jax.data.sources.base import ByteRange, CorpusFile, Document
from bert_jax.data.sources.files import LARGEST_RATIO, SMALL, open_file
from bert_jax.errors import DataError, needing
from bert_jax.files import parsing

_ACCEPTED = "a whole Parquet file"
_BATCH_ROWS = 256


@dataclass(frozen=True)
class ParquetFile(CorpusFile):
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
                yield byte_range.document(value, self.field, number=row)


def open_parquet(stream: BinaryIO, path: str, size: int) -> Any:
    """Returns the `pyarrow.parquet.ParquetFile` of a stream. `path` and `size` are of the file.

    Raises:
      DataError: pyarrow is not installed, or the file is damaged.
    """
    with needing(path, "corpora"):
        from pyarrow import parquet
    with parsing(path, accepted=_ACCEPTED):
        # There is no read-ahead, because a row group may be larger than memory.
        file = parquet.ParquetFile(stream, pre_buffer=False)
        _check_sizes(file.metadata, limit=max(SMALL, LARGEST_RATIO * size))
    return file


def read_rows(
    file: Any, path: str, first: int, last: int, *, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and the columns (default: all) of each row from `first` to `last - 1`.

    A column within a structure is an object in an object.

    Raises:
      DataError: the file is damaged.
    """
    with parsing(path, accepted=_ACCEPTED):
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        starts = list(accumulate(sizes, initial=0))
        groups = [i for i, (a, b) in enumerate(pairwise(starts)) if a < last and b > first]
        row = starts[groups[0]] if groups else last
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns):
            kept = range(max(row, first), min(row + len(batch), last))
            values = batch.slice(max(0, first - row), len(kept))
            yield from zip(kept, values.to_pylist(), strict=True)
            row += len(batch)
            if row >= last:
                return


def _check_sizes(metadata, *, limit: int) -> None:
    """Raises ValueError if a row group declares that it inflates to more than `limit` bytes.

    pyarrow aborts the process when it reads damaged metadata of a column, so only the sum for all
    columns of a row group is read.
    """
    for group in range(metadata.num_row_groups):
        if metadata.row_group(group).total_byte_size > limit:
            raise ValueError(f"row group {group} inflates to more than {limit:,} bytes")
