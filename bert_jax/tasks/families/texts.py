"""Functions of several families: texts and labels of a record, encoding, GLUE's prediction file."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families.family import EncoderInput, Example, Labels, Row
from bert_jax.tasks.readers.records import ClassLabel, Record

NO_LABEL = "-100"
"""The label that Hugging Face's alignment writes where a token has none."""


def field_names(task: TaskConfig) -> tuple[str, ...]:
    """Returns the field of the text, or the fields of both texts of a pair."""
    return (task.text, task.text_pair) if task.text_pair else (task.text,)


def label_name(value: Any) -> str | None:
    """Returns a label as a string, as in `task.labels`; a Boolean becomes `true` or `false`."""
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def can_be_label(value: Any) -> bool:
    """Returns whether a value is a text or number, but not blank, NaN, `NO_LABEL` or two lines."""
    unusable = str(value).strip() in ("", NO_LABEL) or set(str(value)) & set("\t\r\n")
    return isinstance(value, str | int | float) and value == value and not unusable  # NaN != NaN


def sorted_labels(values: Iterable[Any]) -> Labels:
    """Returns every label once, sorted by name. `parse` refuses what cannot be a label."""
    return tuple(sorted({str(label_name(value)) for value in values if can_be_label(value)}))


def label_number(value: Any, record: Record, task: TaskConfig, labels: Labels) -> int:
    """Finds a label in `labels` by its name, or else by its stored number. Returns its index.

    Raises:
      DataError: the label is not in `labels`.
    """
    name = label_name(value)
    if name not in labels and isinstance(value, ClassLabel):
        name = str(value.number) if str(value.number) in labels else name
    if name not in labels:
        known = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
        raise DataError(f"{record.place}: {task.label} is {name!r}; accepted: {known}")
    return labels.index(name)


def gold_label(record: Record, task: TaskConfig, labels: Labels) -> int | None:
    """Returns the index of a record's label; None if the label is hidden."""
    value = record[task.label]
    return None if value is None else label_number(value, record, task, labels)


def glue_index(record: Record) -> str:
    """Returns GLUE's number of an example, or ''. TFDS and Hugging Face store it as `idx`."""
    index = str(record.fields.get("idx", record.fields.get("index", "")))
    return index if index.isdecimal() else ""


def encode(number: int, example: Example, task: TaskConfig, tokenizer: Tokenizer) -> list[Row]:
    """Returns one row. An input is a pair of the first text and another, or a single text."""
    first, *others = (tokenizer.encode(text) for text in example.texts)
    inputs = tuple(
        lay_out_texts(first, other, max_length=task.max_length, tokenizer=tokenizer)
        for other in others or [None]
    )
    hidden = example.gold is None
    return [Row(inputs, 0 if hidden else example.gold, 0.0 if hidden else 1.0, number)]


def lay_out_texts(
    first: list[int], second: list[int] | None, *, max_length: int, tokenizer: Tokenizer
) -> EncoderInput:
    """Returns [CLS] A [SEP], or [CLS] A [SEP] B [SEP], with at most `max_length` tokens.

    Tokens are removed from the end of the longer text, or of B if both texts are equally long, as
    in `_truncate_seq_pair` of google-research/bert's run_classifier.py.
    """
    a, b = len(first), len(second or ())
    room = max_length - (2 if second is None else 3)
    while a + b > room:
        if a > b:
            a -= 1
        else:
            b -= 1
    ids = [tokenizer.cls_id, *first[:a], tokenizer.sep_id]
    segments = [0] * len(ids)
    if second is not None:
        ids += [*second[:b], tokenizer.sep_id]
        segments += [1] * (b + 1)
    return EncoderInput(ids, segments)


def answers(
    labels: Labels, predictions: Sequence[int], outputs: Sequence[np.ndarray], *_: Any
) -> list[dict[str, Any]]:
    """Returns the label of each example, its probability, and the probabilities of all labels."""
    found = []
    for label, logits in zip(predictions, outputs, strict=True):
        powers = np.exp(logits.ravel() - logits.max())
        of_labels = dict(zip(labels, map(shortest, powers / powers.sum()), strict=True))
        answer = {"label": labels[label], "probability": of_labels[labels[label]]}
        found.append(answer | {"probabilities": of_labels})
    return found


def shortest(number: Any) -> float:
    """Returns the float with the fewest decimals that is the same float32 number."""
    return float(str(np.float32(number)))


def write_predictions(
    predictions: Sequence[float], examples: Sequence[Example], labels: Labels
) -> tuple[str, str]:
    """Returns a TSV file in GLUE's format: index and prediction, sorted by index.

    TFDS shuffles examples, so GLUE's own index is used. If an example has no such index, or shares
    it with another, all examples are numbered in the order of the file.
    """
    numbered = len({example.name for example in examples} - {""}) == len(examples)
    indices = [int(example.name) if numbered else i for i, example in enumerate(examples)]
    shown = [f"{p:.4f}" if isinstance(p, float) else labels[p] for p in predictions]
    lines = [f"{i}\t{p}\n" for i, p in sorted(zip(indices, shown, strict=True))]
    return "tsv", "".join(["index\tprediction\n", *lines])
