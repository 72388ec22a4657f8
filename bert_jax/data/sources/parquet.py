"""`parquet:GLOB[:FIELD]`: a column of Parquet files, read with pyarrow."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from bert_jax.data.sources.base import ByteRange, Document, text_of
from bert_jax.data.sources.files import open_file
from bert_jax.errors import DataError

_BATCH_ROWS = 256


@dataclass(frozen=True)
class ParquetFile:
    path: str
    size: int
    field: str
    """Name of the column that holds the text."""

    def read(self, byte_range: ByteRange) -> Iterator[Document]:
        import pyarrow
        from pyarrow import parquet

        with open_file(self.path) as stream:
            try:
                # There is no read-ahead, because a row group may be larger than memory.
                file = parquet.ParquetFile(stream, pre_buffer=False)
            except pyarrow.ArrowInvalid as error:
                raise DataError(f"{self.path} is not a Parquet file ({error})") from error
            if self.field not in (columns := file.schema_arrow.names):
                raise DataError(
                    f"{self.path} has no column {self.field!r}, but {', '.join(columns)}; "
                    "accepted: parquet:GLOB:FIELD"
                )
            rows = file.metadata.num_rows
            first = byte_range.start * rows // self.size
            last = byte_range.end * rows // self.size
            try:
                for row, value in self._values(file, first, last):
                    name, place = f"{self.path}:{self.field}@{row}", f"{self.path}@{row}"
                    text = text_of({self.field: value}, self.field, place=partial(str, place))
                    yield Document(name, text)
            except OSError as error:
                if error.errno:
                    raise
                said = " ".join(str(error).split())
                raise DataError(
                    f"{self.path} is damaged ({said}); accepted: a whole Parquet file"
                ) from error

    def _values(self, file, first: int, last: int) -> Iterator[tuple[int, object]]:
        """Yields the number and the value of the column's rows `first` to `last - 1`."""
        group_start = 0
        for group in range(file.metadata.num_row_groups):
            group_end = group_start + file.metadata.row_group(group).num_rows
            if group_start < last and group_end > first:
                row = group_start
                for batch in file.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=[self.field]
                ):
                    kept = range(max(row, first), min(row + len(batch), last))
                    values = batch.column(0).slice(max(0, kept.start - row), len(kept))
                    yield from zip(kept, values.to_pylist(), strict=True)
                    row += len(batch)
                    if row >= last:
                        return
            group_start = group_end
