"""A family of tasks: the functions that lead from a stored record to a metric.

    Record --parse--> Example --encode--> Rows --BertForTask--> logits --loss--> Mean
    logits --predict_batch--> outputs --decode--> predictions
    predictions --score--> outcomes --metrics--> numbers
    predictions --answers--> what `predict` returns

To add a family, write these functions in a module of this folder and add it to `registry.py`. Add
its name to `FamilyName` in `tasks/config.py` and to `TASK_CLASSES` in `interop/names.py` too. If
its `unit` is 'token', `TaskConfig` must also name it as a token task. `regression.py` is the
shortest example.
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
"""Names of the labels in the order of their numbers; empty for a family without labels."""

Outcomes = np.ndarray
"""[examples, k] float64: the output of `score`, from which metrics are computed."""


class Example(NamedTuple):
    """A record that passed the checks of its family."""

    place: str
    texts: tuple[Any, ...]
    """The input: one or two texts; tokens; question and passage; or a text and its choices."""
    gold: Any
    """The label, whose type depends on the family; None if it is hidden."""
    name: str = ""
    """The example's id in the predictions file."""
    offsets: tuple[tuple[int, int], ...] = ()
    """The (start, end) of each token in a text that was split into tokens."""


class EncoderInput(NamedTuple):
    """One unpadded input of the encoder."""

    token_ids: list[int]
    segment_ids: list[int]


class Row(NamedTuple):
    """One row of a batch."""

    inputs: tuple[EncoderInput, ...]
    """One input; in multiple choice, one input for each choice."""
    label: Any
    """A label number, a label number for each token, or an answer's first and last position."""
    weight: Any
    """The weight in the loss: one number, or a number for each token."""
    example: int
    """The index of the row's example."""
    alignment: Any = None
    """Where the row's tokens come from; `decode` uses it."""


class TaskBatch(NamedTuple):
    """Rows padded to one shape. Rows that only fill up a batch have weight 0.

    B is the number of rows, C the number of choices (1 outside multiple choice), S the row length.
    """

    token_ids: Any
    """[B, C, S] int32, like `segment_ids` and `pack_ids`."""
    segment_ids: Any
    pack_ids: Any
    """1 at tokens, 0 at padding."""
    labels: Any
    """[B], [B, S] or [B, 2], with the family's `label_dtype`."""
    weights: Any
    """[B] or [B, S] float32."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The functions of a family of tasks."""

    unit: Literal["text", "token"]
    """The input of the output layer: one vector per row, or one per position."""
    dropout: bool = True
    """Whether dropout is applied before the output layer."""
    row_label: Literal["number", "token", "span"] = "number"
    label_dtype: type = np.int32
    label_names: Callable[[Sequence[Record], TaskConfig], Labels]
    """The labels of the training records, in order."""
    fields: Callable[[TaskConfig], tuple[str, ...]]
    """The names of a record's texts, in the order in which `predict` takes them."""
    parse: Callable[[Record, TaskConfig, Labels], Example]
    """Checks a record; a wrong record raises DataError with its place."""
    outputs: Callable[[Labels], int]
    """The width of the output layer."""
    encode: Callable[[int, Example, TaskConfig, Tokenizer], list[Row]]
    """The rows of an example, given its index. No row is longer than `max_length`."""
    loss: Callable[[Any, TaskBatch], Mean]
    """The loss of a batch's logits; it does not depend on the amount of padding."""
    predict_batch: Callable[[Any], Any] = lambda logits: logits
    """Runs on the device and reduces logits to what `decode` needs."""
    decode: Callable[..., list[Any]]
    """The prediction of each example, from (outputs of the rows, rows, examples, task)."""
    choose_threshold: Callable[[list[Any], Sequence[Example], str], float | None] = lambda *_: None
    """The threshold above which a prediction becomes "no answer", or None. Chosen on dev."""
    apply_threshold: Callable[[list[Any], float | None], list[Any]] = lambda predictions, _: (
        predictions
    )
    """The predictions; those above the threshold become "no answer"."""
    answers: Callable[..., list[dict[str, Any]]]
    """The prediction of each example as JSON, with its probability, from (labels, predictions,
    outputs of the rows, rows, examples)."""
    gold: Callable[[Any, Labels], Any] = lambda gold, labels: labels[gold]
    """The label of an example as JSON."""
    score: Callable[[list[Any], Sequence[Example], Labels], Outcomes]
    """The outcomes: the comparison of each prediction with its example."""
    metrics: dict[str, Callable[[Outcomes], float | None]]
    """The metrics by name; the first is the default main metric. A metric returns None where it
    cannot be computed, such as the F1 of entities for parts of speech."""
    baselines: Callable[[Sequence[Example], Sequence[Example]], dict[str, list[Any]]]
    """Predictions without a model, from (training examples, examples to predict)."""
    write_predictions: Callable[[list[Any], Sequence[Example], Labels], tuple[str, str]]
    """The suffix and the content of the predictions file, in the family's usual format."""
