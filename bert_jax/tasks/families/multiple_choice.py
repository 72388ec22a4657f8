"""Multiple choice: the correct ending of a text among several, as in SWAG."""

from dataclasses import replace

from bert_jax.errors import require
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families import metrics
from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.families.family import Example, Labels
from bert_jax.tasks.families.texts import gold_label
from bert_jax.tasks.readers.records import Record
from bert_jax.training.losses import cross_entropy
from bert_jax.training.metrics import Mean


def field_names(task: TaskConfig) -> tuple[str, ...]:
    """Returns the fields of the text, the start of the choices (if it has one), and the choices."""
    names = (task.text, task.choice_start, *map(str.strip, task.text_pair.split(",")))
    return tuple(name for name in names if name)


def parse(record: Record, task: TaskConfig, labels: Labels) -> Example:
    """Reads the text, its choices and the number of the right choice."""
    start = record.text(task.choice_start) + " " if task.choice_start else ""
    choices = tuple(start + record.text(name.strip()) for name in task.text_pair.split(","))
    accepted = f"{len(choices)}, one for each field of task.text_pair, or none"
    require(len(labels) == len(choices), "task.labels", labels, accepted)
    texts = (record.text(task.text), *choices)
    return Example(record.place, texts, gold_label(record, task, labels))


MULTIPLE_CHOICE = replace(
    CLASSIFICATION,
    label_names=lambda records, task: tuple(map(str, range(len(task.text_pair.split(","))))),
    fields=field_names,
    parse=parse,
    outputs=lambda labels: 1,
    loss=lambda logits, batch: Mean.of(cross_entropy(logits[..., 0], batch.labels), batch.weights),
    metrics={"accuracy": metrics.accuracy},
)
