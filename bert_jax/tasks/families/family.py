"""What a family of tasks is: a handful of pure functions, from an example to a metric.

    Record --parse--> Example --encode--> Rows --BertForTask--> logits --loss--> Mean
                                                                  |--answer--> --decode-->
        prediction --judge--> numbers of an example --metrics--> a number of the set

To add one, write these functions in a module (tasks/regression.py is the shortest) and name
it in tasks/families.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.readers.records import Record
from bert_jax.training.metrics import Mean

Labels = tuple[str, ...]
"""Names of the labels by their numbers; empty for a family without."""


class Example(NamedTuple):
    """A record that was found to be right."""

    place: str
    texts: tuple[Any, ...]
    """What is encoded: a text or two; the tokens; question and passage; a context and choices."""
    gold: Any
    """Of the family's own type; None where the label is hidden."""
    name: str = ""
    """Its id in the predictions file."""


class EncoderInput(NamedTuple):
    """One input of the encoder, not yet padded."""

    token_ids: list[int]
    segment_ids: list[int]


class Row(NamedTuple):
    """What one row of a batch holds."""

    inputs: tuple[EncoderInput, ...]
    """One; as many as there are choices in multiple choice."""
    label: Any
    """A number, or one for each token, or start and end."""
    weight: Any
    """Of the loss, shaped as the label or a number."""
    example: int
    """The number of the example that it belongs to."""
    origin: Any = None
    """What `decode` needs to know of it: where the tokens of the row come from."""


class TaskBatch(NamedTuple):
    """Rows of one shape; those that only fill up the last batch weigh 0.

    C is the number of choices, 1 outside multiple choice.
    """

    token_ids: Any
    """[B, C, S] int32."""
    segment_ids: Any
    pack_ids: Any
    """1 at real positions, 0 at padding."""
    labels: Any
    """[B], [B, S] or [B, 2]."""
    weights: Any
    """[B] or [B, S] float32."""


Outcomes = np.ndarray
"""[examples, k] float64: what `judge` says of each prediction; a set's metric is of its rows."""


def nothing_to_settle(predictions: list[Any], examples: Sequence[Example], metric: str) -> None:
    """For a family without a threshold."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The functions of a family of tasks."""

    unit: Literal["text", "token"]
    """What the output layer sees: a row's representation, or each of its positions."""
    dropout: bool = True
    """Before the output layer."""
    row_label: Literal["number", "token", "span"] = "number"
    label_dtype: type = np.int32
    label_names: Callable[[Sequence[Record], TaskConfig], Labels]
    """The labels that the training records have, in order."""
    parse: Callable[[Record, TaskConfig, Labels], Example]
    """Raises DataError for a record that is not one of the task, with its place."""
    outputs: Callable[[Labels], int]
    """Width of the output layer."""
    encode: Callable[[int, Example, TaskConfig, Tokenizer], list[Row]]
    """Rows of example number i, none longer than `max_length`."""
    loss: Callable[[Any, TaskBatch], Mean]
    """Of the logits of a batch; the same however far its rows are padded."""
    answer: Callable[[Any], Any] = lambda logits: logits
    """On the device: what of the logits `decode` needs."""
    decode: Callable[..., list[Any]]
    """Predictions from (answers of the rows, rows, examples, task)."""
    settle: Callable[[list[Any], Sequence[Example], str], float | None] = nothing_to_settle
    """A number that is chosen on dev for the main metric and used on test: the threshold of no
    answer."""
    judge: Callable[[list[Any], Sequence[Example], Labels, float | None], Outcomes]
    """Outcomes from predictions, examples, labels and what dev settled."""
    metrics: dict[str, Callable[[Outcomes], float | None]]
    """The first is what a task is measured by unless it says otherwise; None where there is
    nothing to measure, such as entities among parts of speech."""
    baselines: Callable[[Sequence[Example], Sequence[Example]], dict[str, list[Any]]]
    """Predictions for the second from the first, without a model."""
    write: Callable[[list[Any], Sequence[Example], Labels, float | None], tuple[str, str]]
    """Name and content of the predictions file, in the usual format of the family."""
