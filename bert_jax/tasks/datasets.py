"""The examples of a task, read and checked before anything is compiled."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, require
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families.family import Example, Family, Labels, Outcomes, Row
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.readers.read import read_records
from bert_jax.tasks.readers.records import Record, fingerprint_records

SPLITS = ("train", "dev", "test")
HIDDEN = (-1, "-1", "-1.0")
"""Values of a hidden label in GLUE's test sets at TFDS and Hugging Face."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The examples of `train`, `dev` or `test`."""

    name: str
    examples: list[Example]
    sha256: str
    """SHA-256 of the records, in hexadecimal."""
    rows: list[Row]
    """The encoded examples; empty until `encode_split`."""

    @property
    def labelled(self) -> bool:
        """Whether every example has a label, so that metrics can be computed."""
        return all(example.gold is not None for example in self.examples)

    def describe(self, train: "Split") -> dict[str, Any]:
        """Returns the split's entry in result.json."""
        counts = {"examples": len(self.examples), "rows": len(self.rows), "sha256": self.sha256}
        if self.name == train.name:
            return counts
        seen = {example.texts for example in train.examples}
        return counts | {"texts_also_in_train": sum(one.texts in seen for one in self.examples)}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A task's examples and labels."""

    family: Family
    labels: Labels
    splits: dict[str, Split]
    metric: str
    """The main metric."""


def load_dataset(task: TaskConfig) -> Dataset:
    """Reads and checks all examples of a task.

    Raises:
      DataError: a record is wrong (the message names its file and line), or a set has no examples.
      ConfigError: the family lacks `task.metric`, or `task.train` or `task.dev` is empty.
    """
    for name in ("train", "dev"):
        spec = getattr(task, name)
        require(spec, f"task.{name}", spec, "data such as tsv:FILE")
    family = FAMILIES[task.family]
    metric = task.metric or next(iter(family.metrics))
    accepted = f"{', '.join(family.metrics)} for {task.family}"
    require(metric in family.metrics, "task.metric", metric, accepted)
    specs = {name: getattr(task, name) for name in SPLITS if getattr(task, name)}
    records = {name: read_records(spec, task.columns) for name, spec in specs.items()}
    labels = task.labels or family.label_names(records["train"], task)
    if "test" in records and hides_labels(records["test"], task, labels):
        records["test"] = [
            Record(place, fields | {task.label: None}) for place, fields in records["test"]
        ]
    splits = {
        name: Split(
            name=name,
            examples=[family.parse(record, task, labels) for record in found],
            sha256=fingerprint_records(found),
            rows=[],
        )
        for name, found in records.items()
    }
    for name in ("train", "dev"):
        hidden = next((one for one in splits[name].examples if one.gold is None), None)
        if hidden:
            raise DataError(
                f"{hidden.place}: {task.label} is hidden; accepted in task.{name}: labelled ones"
            )
    return Dataset(family=family, labels=labels, splits=splits, metric=metric)


def hides_labels(test: Sequence[Record], task: TaskConfig, labels: Labels) -> bool:
    """Returns whether test labels are hidden: none exists, or all are -1 and -1 is not a label."""
    given = [record.fields[task.label] for record in test if task.label in record.fields]
    minus_one = len(given) == len(test) and all(label in HIDDEN for label in given)
    return not given or (minus_one and not set(HIDDEN) & set(labels))


def encode_split(split: Split, task: TaskConfig, tokenizer: Tokenizer) -> Split:
    """Returns the split with the rows that encode its examples."""
    family = FAMILIES[task.family]
    rows = [
        row
        for number, example in enumerate(split.examples)
        for row in family.encode(number, example, task, tokenizer)
    ]
    return replace(split, rows=rows)


def encode_dataset(dataset: Dataset, task: TaskConfig, tokenizer: Tokenizer) -> Dataset:
    """Returns the dataset with the rows of every split."""
    splits = dataset.splits.values()
    return replace(dataset, splits={s.name: encode_split(s, task, tokenizer) for s in splits})


def fingerprint_splits(splits: dict[str, Split]) -> str:
    """Returns the SHA-256 of all splits."""
    return hashlib.sha256("".join(split.sha256 for split in splits.values()).encode()).hexdigest()


def compute_metrics(family: Family, outcomes: Outcomes) -> dict[str, float]:
    """Returns the family's metrics that can be computed from the outcomes."""
    values = {name: metric(outcomes) for name, metric in family.metrics.items()}
    return {name: value for name, value in values.items() if value is not None}


def baseline_metrics(dataset: Dataset, split: Split) -> dict[str, dict[str, float]]:
    """Returns the metrics of each baseline of the family on a split."""
    family, train = dataset.family, dataset.splits["train"].examples
    return {
        name: compute_metrics(family, family.score(predictions, split.examples, dataset.labels))
        for name, predictions in family.baselines(train, split.examples).items()
    }
