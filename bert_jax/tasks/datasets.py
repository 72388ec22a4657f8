"""The examples of a task, read and checked before anything is compiled."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, require
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families.family import Example, Family, Labels, Outcomes, Row
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.families.texts import NO_LABEL
from bert_jax.tasks.readers.read import read_records
from bert_jax.tasks.readers.records import Record, fingerprint_records, make_all

SPLITS = ("train", "dev", "test")
HIDDEN = (-1, "-1", "-1.0", "", None)
"""Values of a hidden label: in GLUE's test sets at TFDS and Hugging Face, and an empty cell."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The examples of `train`, `dev` or `test`."""

    name: str
    examples: list[Example]
    sha256: str
    """SHA-256 of the records, in hexadecimal."""
    rows: list[Row]
    """The encoded examples; empty until `encode_dataset`."""
    skipped: list[str] = field(default_factory=list)
    """The errors of the malformed records that were left out."""

    @property
    def labelled(self) -> bool:
        """Whether every example has a label, so that metrics can be computed."""
        return all(example.gold is not None for example in self.examples)

    def shared_with(self, train: "Split") -> list[Example]:
        """Returns the examples whose texts are also in train."""
        seen = {example.texts for example in train.examples}
        return [example for example in self.examples if example.texts in seen]

    def describe(self, train: "Split") -> dict[str, Any]:
        """Returns the split's entry in result.json."""
        counts = {"examples": len(self.examples), "rows": len(self.rows), "sha256": self.sha256}
        if self.skipped:
            counts["skipped"] = {"count": len(self.skipped), "records": self.skipped[:1000]}
        if self.name == train.name:
            return counts
        return counts | {"texts_also_in_train": len(self.shared_with(train))}


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
      DataError: a record is wrong (the message names its file and line), a set has no examples, or
        there are fewer than two labels.
      ConfigError: the family lacks `task.metric`, `task.train` or `task.dev` is empty, or a field
        is set that the task ignores.
    """
    for name in ("train", "dev"):
        spec = getattr(task, name)
        require(spec, f"task.{name}", spec, "data such as tsv:FILE")
    task.check_fields_are_read()
    family = FAMILIES[task.family]
    metric = task.metric or next(iter(family.metrics))
    accepted = f"{', '.join(family.metrics)} for {task.family}"
    require(metric in family.metrics, "task.metric", metric, accepted)
    specs = {name: getattr(task, name) for name in SPLITS if getattr(task, name)}
    bad = {name: [] if task.on_bad_record == "skip" else None for name in specs}
    records = {n: read_records(spec, task.columns, skipped=bad[n]) for n, spec in specs.items()}
    labels = task.labels or family.label_names(records["train"], task)
    if "test" in records and hides_labels(records["test"], task, labels):
        records["test"] = [
            record._replace(fields=record.fields | {task.label: None}) for record in records["test"]
        ]
    splits = {n: _check_split(n, found, task, labels, bad[n]) for n, found in records.items()}
    if len(labels) == 1 or (family.outputs is len and not labels):
        raise DataError(f"{task.train} has the labels {labels}; accepted: two or more labels")
    return Dataset(family=family, labels=labels, splits=splits, metric=metric)


def _check_split(
    name: str, records: list[Record], task: TaskConfig, labels: Labels, skipped: list[str] | None
) -> Split:
    ids = set()

    def parse(record: Record) -> Example:
        example = FAMILIES[task.family].parse(record, task, labels)
        if example.gold is None and name != "test":
            raise DataError(
                f"{record.place}: {task.label} is hidden; accepted in task.{name}: labelled ones"
            )
        if example.name in ids:
            raise DataError(f"{record.place} has the id of another question; accepted: its own id")
        if task.family == "question_answering" and name != "train":  # predictions have the ids
            ids.add(example.name)
        return example

    pairs = make_all(((record, partial(parse, record)) for record in records), skipped=skipped)
    if not pairs:
        raise DataError(f"task.{name}: all examples were skipped; accepted: at least one is not")
    sha256 = fingerprint_records([record for record, _ in pairs])
    examples = [example for _, example in pairs]
    return Split(name=name, examples=examples, sha256=sha256, rows=[], skipped=skipped or [])


def hides_labels(test: Sequence[Record], task: TaskConfig, labels: Labels) -> bool:
    """Returns whether test labels are hidden: none exists, or all are -1 and -1 is not a label.

    The tags of a sentence are hidden if all of them are -1, null or -100.
    """
    given = [record.fields[task.label] for record in test if task.label in record.fields]
    minus_one = len(given) == len(test) and all(map(_is_hidden, given))
    return not given or (minus_one and not set(HIDDEN) & set(labels))


def _is_hidden(label: Any) -> bool:
    if isinstance(label, list) and label:
        return all(tag in HIDDEN or str(tag) == NO_LABEL for tag in label)
    return label in HIDDEN


def encode_examples(
    examples: Sequence[Example], task: TaskConfig, tokenizer: Tokenizer
) -> list[Row]:
    """Returns the rows of all examples, in order."""
    encode = FAMILIES[task.family].encode
    return [row for i, one in enumerate(examples) for row in encode(i, one, task, tokenizer)]


def encode_dataset(dataset: Dataset, task: TaskConfig, tokenizer: Tokenizer) -> Dataset:
    """Returns the dataset with the rows of every split."""
    encode = partial(encode_examples, task=task, tokenizer=tokenizer)
    splits = {n: replace(one, rows=encode(one.examples)) for n, one in dataset.splits.items()}
    return replace(dataset, splits=splits)


def fingerprint_splits(splits: dict[str, Split]) -> str:
    """Returns the SHA-256 of all splits."""
    return hashlib.sha256("".join(split.sha256 for split in splits.values()).encode()).hexdigest()


def compute_metrics(family: Family, outcomes: Outcomes) -> dict[str, float]:
    """Returns the family's metrics that can be computed from the outcomes."""
    values = {name: metric(outcomes) for name, metric in family.metrics.items()}
    return {name: value for name, value in values.items() if value is not None}
