"""Regression: predicts a number for a text or a pair, such as the similarity of two sentences."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np

from bert_jax.errors import DataError
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families import metrics
from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.families.family import Example, Labels
from bert_jax.tasks.families.texts import field_names, glue_index, shortest
from bert_jax.tasks.readers.records import Record
from bert_jax.training.metrics import Mean


def parse(record: Record, task: TaskConfig, labels: Labels) -> Example:
    """Reads the texts and the label of a record. A label is a finite number, or null if hidden."""
    value = record[task.label]
    try:
        gold = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        gold = math.nan
    if gold is not None and not math.isfinite(gold):
        raise DataError(f"{record.place}: {task.label} is {value!r}; accepted: a finite number")
    texts = tuple(map(record.text, field_names(task)))
    return Example(record.place, texts, gold, glue_index(record))


def baselines(train: Sequence[Example], examples: Sequence[Example]) -> dict[str, list[float]]:
    """Predicts the mean label of `train` for every example. Its correlation with labels is 0."""
    return {"mean": [float(np.mean([example.gold for example in train]))] * len(examples)}


REGRESSION = replace(
    CLASSIFICATION,
    label_dtype=np.float32,
    label_names=lambda records, task: (),
    parse=parse,
    outputs=lambda labels: 1,
    loss=lambda logits, batch: Mean.of(jnp.square(logits[..., 0] - batch.labels), batch.weights),
    decode=lambda outputs, *_: [float(output[0]) for output in outputs],
    answers=lambda labels, predictions, *_: [{"value": shortest(number)} for number in predictions],
    gold=lambda gold, labels: gold,
    metrics={
        "pearson": partial(metrics.correlation, kind="pearsonr"),
        "spearman": partial(metrics.correlation, kind="spearmanr"),
    },
    baselines=baselines,
)
