"""`tfds:NAME[/CONFIG][:SPLIT[:FIELD]]`: prepared TensorFlow Datasets, read without TensorFlow.

NAME is a dataset that is prepared in the TFDS data directory, or the path of a prepared dataset.
array_record files allow random access. A tfrecord file is read from its beginning.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bert_jax.data.sources.base import ByteRange, CorpusFile, CorpusSource, Document
from bert_jax.data.sources.files import open_raw
from bert_jax.errors import DataError, needing
from bert_jax.files import parsing

_RECORDS_AT_ONCE = 64
_ACCEPTED = "the files of a dataset as TFDS wrote them"


@dataclass(frozen=True)
class TfdsFile(CorpusFile):
    builder_directory: str
    file_format: str
    first: int
    count: int
    """Number of the file's records that belong to the split, beginning with record `first`."""
    field: str

    def read(self, byte_range: ByteRange) -> Iterator[Document | DataError]:
        first = self.first + byte_range.start * self.count // self.size
        last = self.first + byte_range.end * self.count // self.size
        for number, example in self.examples(first, last):
            yield byte_range.document(example, self.field, number=number)

    def examples(self, first: int, last: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the number and the decoded fields of the file's records `first` to `last - 1`."""
        features = _builder(self.builder_directory).info.features
        read = _array_records if self.file_format == "array_record" else _tfrecords
        records = read(self.path, first, last)
        for number in range(first, last):
            with parsing(f"{self.path}@{number}", accepted="a record as TFDS wrote it"):
                example = features.deserialize_example_np(next(records))
            yield number, example


def open_tfds(name: str, *, split: str, field: str, spec: str) -> CorpusSource:
    """Returns the files of a split, or of a part of it such as `train[:10%]`.

    Raises:
      DataError: the library, the dataset, the split or the field is missing.
    """
    directory = _directory_of(name, spec=spec)
    info = _builder(directory).info
    files = _files_of(directory, split=split, field=field, spec=spec)
    with parsing(directory, accepted=_ACCEPTED):
        known = sorted(info.features)
        licence = info.as_proto.redistribution_info.license
    if field not in known:
        raise DataError(
            f"{spec} has no field {field!r}; accepted: {', '.join(known)}, as in "
            f"{name}:{split}:FIELD"
        )
    return CorpusSource(spec=spec, files=files, licence=licence or None)


def read_examples(name: str, *, split: str, spec: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Yields the place, the decoded fields and the TFDS features of each example of a split.

    Raises:
      DataError: the library, the dataset or the split is missing.
    """
    directory = _directory_of(name, spec=spec)
    features = _builder(directory).info.features
    for file in _files_of(directory, split=split, field="", spec=spec):
        for number, example in file.examples(file.first, file.first + file.count):
            yield f"{file.path}@{number}", example, features


def _files_of(directory: str, *, split: str, field: str, spec: str) -> tuple[TfdsFile, ...]:
    info = _builder(directory).info
    with parsing(directory, accepted=_ACCEPTED):
        try:
            instructions = info.splits[split].file_instructions
        except (KeyError, ValueError) as error:
            known = ", ".join(info.splits)
            raise DataError(
                f"{spec} has no split {split!r}; accepted: {known}, or a part SPLIT[a:b]"
            ) from error
        file_format = info.file_format.value
        if file_format not in ("array_record", "tfrecord"):
            raise DataError(
                f"{spec} is stored as {file_format}; accepted: array_record or tfrecord"
            )
        for one in instructions:  # dataset_info.json holds a template of their names
            if os.path.dirname(os.path.abspath(one.filename)) != os.path.abspath(directory):
                raise DataError(f"{spec} names {one.filename}; accepted: files in {directory}")
        return tuple(
            TfdsFile(
                path=str(one.filename),
                size=os.path.getsize(one.filename) or 1,
                builder_directory=directory,
                file_format=file_format,
                first=one.skip,
                count=one.take if one.take >= 0 else one.examples_in_shard - one.skip,
                field=field,
            )
            for one in instructions
        )


def _directory_of(name: str, *, spec: str) -> str:
    """Returns the directory of a prepared dataset. The embedded corpus is prepared if needed."""
    with needing(spec, "corpora"):
        import tensorflow_datasets as tfds
    if os.path.isdir(name):
        return name
    from bert_jax.data.sources.sotu_builder import Sotu

    try:
        with _features_of_tfds_alone():
            builder = tfds.builder(name)
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(
            f"{spec}: TFDS has no dataset {name!r}, and there is no such directory; accepted: a "
            "dataset prepared in TFDS_DATA_DIR (glue and others must be, as they use TensorFlow)"
        ) from error
    except (ValueError, KeyError) as error:
        said, *_ = str(error).strip().splitlines()
        raise DataError(
            f"{spec}: {said.rstrip(':')}; accepted: tfds:NAME[/CONFIG][:SPLIT[:FIELD]]"
        ) from error
    # `is_prepared` would print a warning of its own.
    if not (builder.data_path / "dataset_info.json").exists():
        if not isinstance(builder, Sotu):
            raise DataError(
                f"{spec}: {builder.data_path} is missing; accepted: a dataset that TFDS has "
                "prepared there, or its path, or another TFDS_DATA_DIR"
            )
        builder.download_and_prepare()
    return str(builder.data_path)


@lru_cache
def _builder(directory: str) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetInfoFileError

    with parsing(directory, accepted=_ACCEPTED):
        try:
            with _features_of_tfds_alone():
                return tfds.builder_from_directory(directory)
        except DatasetInfoFileError as error:
            raise DataError(f"{directory} holds no dataset of TFDS ({error})") from error


@contextmanager
def _features_of_tfds_alone() -> Iterator[None]:
    """Refuses feature classes of other packages.

    `features.json` names the class of each feature. TFDS imports the module of this class, so a
    directory of data could run any module that Python finds.
    """
    from tensorflow_datasets.core.features.feature import FeatureConnector

    original = vars(FeatureConnector)["cls_from_name"]

    def class_of(cls: type, name: str) -> type:
        if not name.startswith("tensorflow_datasets."):
            raise ValueError(f"features.json names the class {name!r}, which TFDS does not have")
        return original.__get__(None, cls)(name)

    FeatureConnector.cls_from_name = classmethod(class_of)  # pyright: ignore
    try:
        yield
    finally:
        FeatureConnector.cls_from_name = original


def _array_records(path: str, first: int, last: int) -> Iterator[bytes]:
    # Imported here, because opening a fine-tuned model imports the readers of tasks.
    from array_record.python.array_record_module import ArrayRecordReader

    # There are no threads and no read-ahead, because several workers read at the same time.
    reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
    try:
        for start in range(first, last, _RECORDS_AT_ONCE):
            yield from reader.read(list(range(start, min(start + _RECORDS_AT_ONCE, last))))
    finally:
        reader.close()


def _tfrecords(path: str, first: int, last: int) -> Iterator[bytes]:
    """Yields the records `first` to `last - 1`.

    A record is stored as length (uint64), checksum of the length (4 bytes), content and checksum
    of the content, little-endian.
    """
    size = os.path.getsize(path)
    with open_raw(path) as stream:
        for number in range(last):
            header = stream.read(12)
            if len(header) < 12:
                raise DataError(f"{path} ends before record {number}; accepted: {last} records")
            (length,) = struct.unpack("<Q", header[:8])
            if length > size - stream.tell():
                raise DataError(
                    f"{path} is damaged (record {number} has {length} bytes, more than the file); "
                    "accepted: a whole file"
                )
            if number < first:
                stream.seek(length + 4, os.SEEK_CUR)
            else:
                record = stream.read(length)
                stream.seek(4, os.SEEK_CUR)
                yield record
