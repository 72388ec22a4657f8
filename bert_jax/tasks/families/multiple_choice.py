"""Which of several endings a text has: SWAG."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import ConfigError
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families import metrics
from bert_jax.tasks.families.classification import CLASSIFICATION, label_number
from bert_jax.tasks.families.encoding import lay_out_texts
from bert_jax.tasks.families.family import Example, Labels, Row
from bert_jax.tasks.readers.records import Record
from bert_jax.training.losses import cross_entropy
from bert_jax.training.metrics import Mean


def label_names(records: Sequence[Record], task: TaskConfig) -> Labels:
    """Returns the numbers of the choices, from 0."""
    return tuple(str(i) for i in range(len(task.text_pair.split(","))))


def parse(record: Record, task: TaskConfig, labels: Labels) -> Example:
    """Reads the text, its choices and the number of the right one."""
    start = record.text(task.choice_start) + " " if task.choice_start else ""
    choices = tuple(start + record.text(name.strip()) for name in task.text_pair.split(","))
    if len(labels) != len(choices):
        raise ConfigError(
            f"task.labels are {', '.join(labels)}; accepted: {len(choices)}, one for each field of "
            "task.text_pair, or none"
        )
    value = record[task.label]
    gold = None
    if value is not None:
        gold = label_number(value, labels, place=record.place, field=task.label)
    return Example(record.place, (record.text(task.text), *choices), gold)


def encode(number: int, example: Example, task: TaskConfig, tokenizer: Tokenizer) -> list[Row]:
    """Returns one row of as many inputs as there are choices, each with the text before it."""
    first, *choices = (tokenizer.encode(text) for text in example.texts)
    inputs = tuple(
        lay_out_texts(first, choice, max_length=task.max_length, tokenizer=tokenizer)
        for choice in choices
    )
    known = example.gold is not None
    return [Row(inputs, example.gold if known else 0, float(known), number)]


def decode(
    answers: Sequence[np.ndarray],
    rows: Sequence[Row],
    examples: Sequence[Example],
    task: TaskConfig,
) -> list[int]:
    """Returns the number of the choice with the highest logit."""
    return [int(np.argmax(logits[:, 0])) for logits in answers]


MULTIPLE_CHOICE = replace(
    CLASSIFICATION,
    label_names=label_names,
    parse=parse,
    outputs=lambda labels: 1,
    encode=encode,
    loss=lambda logits, batch: Mean.of(cross_entropy(logits[..., 0], batch.labels), batch.weights),
    decode=decode,
    metrics={"accuracy": metrics.accuracy},
)
