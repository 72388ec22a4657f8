"""A label for a text or a pair of texts: sentiment, entailment, paraphrase, acceptability."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families import metrics
from bert_jax.tasks.families.encoding import lay_out_texts
from bert_jax.tasks.families.family import Example, Family, Labels, Outcomes, Row
from bert_jax.tasks.readers.records import ClassLabel, Record
from bert_jax.training.losses import cross_entropy
from bert_jax.training.metrics import Mean


def texts_of(record: Record, task: TaskConfig) -> tuple[str, ...]:
    """Returns the text, or both."""
    names = [task.text, task.text_pair] if task.text_pair else [task.text]
    return tuple(record.text(name) for name in names)


def label_name(value: Any) -> str | None:
    """Returns the name of a label as `task.labels` has it; `true` for a JSON true."""
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def label_names(records: Sequence[Record], task: TaskConfig) -> Labels:
    """Returns every label of the training records, sorted."""
    names = {label_name(record[task.label]) for record in records}
    return tuple(sorted(name for name in names if name is not None))


def label_number(value: Any, labels: Labels, *, place: str, field: str) -> int:
    """Returns the number of a label, which `labels` have by its name or by a number of its own.

    Raises:
      DataError: it is none of them.
    """
    name = label_name(value)
    if name not in labels and isinstance(value, ClassLabel) and str(value.number) in labels:
        return labels.index(str(value.number))
    if name not in labels:
        known = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
        raise DataError(f"{place}: {field} is {name!r}; accepted: {known}")
    return labels.index(name)


def index_of(record: Record) -> str:
    """Returns the number that GLUE gives an example, `idx` of TFDS and Hugging Face, if any."""
    index = str(record.fields.get("idx", ""))
    return index if index.isdecimal() else ""


def parse(record: Record, task: TaskConfig, labels: Labels) -> Example:
    """Reads texts and label; a label that is null is hidden."""
    value = record[task.label]
    gold = None
    if value is not None:
        gold = label_number(value, labels, place=record.place, field=task.label)
    return Example(record.place, texts_of(record, task), gold, index_of(record))


def encode(number: int, example: Example, task: TaskConfig, tokenizer: Tokenizer) -> list[Row]:
    """Returns one row."""
    ids = [tokenizer.encode(text) for text in example.texts]
    pair = ids[1] if len(ids) == 2 else None
    one = lay_out_texts(ids[0], pair, max_length=task.max_length, tokenizer=tokenizer)
    known = example.gold is not None
    return [Row((one,), example.gold if known else 0, float(known), number)]


def decode(
    answers: Sequence[np.ndarray],
    rows: Sequence[Row],
    examples: Sequence[Example],
    task: TaskConfig,
) -> list[int]:
    """Returns the number of the highest logit."""
    return [int(np.argmax(logits)) for logits in answers]


def judge(
    predictions: Sequence[float],
    examples: Sequence[Example],
    labels: Labels,
    threshold: float | None,
) -> Outcomes:
    """Returns predicted and gold of each example."""
    return np.array(
        [(p, e.gold) for p, e in zip(predictions, examples, strict=True)], np.float64
    ).reshape(-1, 2)


def baselines(train: Sequence[Example], examples: Sequence[Example]) -> dict[str, list[int]]:
    """The most frequent label of the training examples."""
    majority = Counter(example.gold for example in train).most_common(1)[0][0]
    return {"majority": [majority] * len(examples)}


def write(
    predictions: list[int], examples: Sequence[Example], labels: Labels, threshold: float | None
) -> tuple[str, str]:
    """Returns GLUE's form of a submission."""
    return submission([labels[prediction] for prediction in predictions], examples)


def submission(predictions: Sequence[str], examples: Sequence[Example]) -> tuple[str, str]:
    """Returns index and prediction, divided by a tab, in the order of GLUE's own numbers.

    TFDS shuffles; examples without such a number are in the order in which they were read.
    """
    numbered = all(example.name for example in examples)
    indices = [int(example.name) if numbered else i for i, example in enumerate(examples)]
    lines = [f"{i}\t{p}\n" for i, p in sorted(zip(indices, predictions, strict=True))]
    return "tsv", "".join(["index\tprediction\n", *lines])


CLASSIFICATION = Family(
    unit="text",
    label_names=label_names,
    parse=parse,
    outputs=len,
    encode=encode,
    loss=lambda logits, batch: Mean.of(cross_entropy(logits, batch.labels), batch.weights),
    decode=decode,
    judge=judge,
    metrics={
        "accuracy": metrics.accuracy,
        "f1": metrics.f1,
        "macro_f1": metrics.macro_f1,
        "matthews": metrics.matthews,
    },
    baselines=baselines,
    write=write,
)
