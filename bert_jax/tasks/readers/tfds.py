"""`tfds:NAME:SPLIT`: a prepared TensorFlow Dataset, read without TensorFlow."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bert_jax.data.sources.tfds import read_examples
from bert_jax.files import parsing
from bert_jax.tasks.readers.records import ClassLabel, Fields


def read_tfds(name: str) -> Iterator[Fields]:
    """Returns a record for each example.

    A class label becomes its name, or null if it is hidden (-1). Answers in SQuAD's form become a
    list of (text, start).

    Raises:
      DataError: the library, the dataset or the split is missing.
    """
    dataset, _, split = name.partition(":")
    examples = read_examples(dataset, split=split or "train", spec=f"tfds:{name}")
    for place, example, features in examples:
        with parsing(place, accepted="an example as TFDS wrote it"):
            fields = {key: _value(value, features[key]) for key, value in example.items()}
        yield place, fields.copy


def _value(value: Any, feature: Any) -> Any:
    if isinstance(value, dict):
        if not {"text", "answer_start"} <= value.keys():
            return value
        texts = [text.decode("utf-8") for text in value["text"]]
        return list(zip(texts, map(int, value["answer_start"]), strict=True))
    if getattr(feature, "feature", None) is not None:  # a sequence
        return [_value(one, feature.feature) for one in value]
    if hasattr(feature, "int2str"):
        if value < 0:
            return None
        label = ClassLabel(feature.int2str(int(value)))
        label.number = int(value)
        return label
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
