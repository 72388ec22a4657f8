"""Classification of texts or pairs of texts: sentiment, entailment, paraphrase, acceptability."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np

from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families import metrics, texts
from bert_jax.tasks.families.family import Example, Family, Labels, Outcomes
from bert_jax.tasks.readers.records import Record
from bert_jax.training.losses import cross_entropy
from bert_jax.training.metrics import Mean


def parse(record: Record, task: TaskConfig, labels: Labels) -> Example:
    """Reads the texts and the label of a record; a null label is hidden."""
    gold = texts.gold_label(record, task, labels)
    given = tuple(map(record.text, texts.field_names(task)))
    return Example(record.place, given, gold, texts.glue_index(record))


def score(predictions: Sequence[float], examples: Sequence[Example], labels: Labels) -> Outcomes:
    """Returns the predicted and the gold value of each example, [examples, 2]."""
    golds = [example.gold for example in examples]
    return np.array(list(zip(predictions, golds, strict=True)), np.float64)


def baselines(train: Sequence[Example], examples: Sequence[Example]) -> dict[str, list[int]]:
    """Predicts the most frequent label of the training examples."""
    majority = Counter(example.gold for example in train).most_common(1)[0][0]
    return {"majority": [majority] * len(examples)}


CLASSIFICATION = Family(
    unit="text",
    label_names=lambda found, task: texts.sorted_labels(r.fields.get(task.label) for r in found),
    fields=texts.field_names,
    parse=parse,
    outputs=len,
    encode=texts.encode,
    loss=lambda logits, batch: Mean.of(cross_entropy(logits, batch.labels), batch.weights),
    decode=lambda outputs, *_: [int(np.argmax(logits)) for logits in outputs],
    answers=texts.answers,
    score=score,
    metrics={
        "accuracy": metrics.accuracy,
        "f1": partial(metrics.f1, average="binary"),
        "macro_f1": partial(metrics.f1, average="macro"),
        "matthews": metrics.matthews,
    },
    baselines=baselines,
    write_predictions=texts.write_predictions,
)
