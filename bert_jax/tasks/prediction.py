"""Predictions of a fine-tuned model: texts -> examples -> rows -> outputs -> answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, require
from bert_jax.models.task import BertForTask
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.datasets import encode_examples
from bert_jax.tasks.families import batches
from bert_jax.tasks.families.family import Example, Row, TaskBatch
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.readers.records import Record
from bert_jax.tasks.state import task_logits

ROWS = (1, 8, 32)
"""Numbers of rows of a batch. With so few shapes, few programs are compiled."""

QUESTION_FIELDS = ("question", "context")
"""Names that a question and its passage may have, whatever the names of the task's fields."""


class TaskModel(NamedTuple):
    """A fine-tuned model, and its task."""

    model: BertForTask
    params: Any
    tokenizer: Tokenizer
    task: TaskConfig
    threshold: float | None = None
    """The threshold for no answer that was chosen on dev."""


def predict_inputs(model: TaskModel, inputs: Any, *, probabilities: bool = False) -> Any:
    """Returns the answer to each input, or to a text, tuple or dict alone; see `Run.predict`."""
    alone = isinstance(inputs, str | tuple | Mapping)
    if not isinstance(inputs, Iterable) or isinstance(inputs, bytes):
        raise DataError(
            f"inputs is {inputs!r:.60} ({type(inputs).__name__}); accepted: a text, a tuple, a "
            "dict, or a list of them"
        )
    given = [inputs] if alone else inputs
    examples = [read_input(model, one, f"input {i}") for i, one in enumerate(given)]
    answers = predict(model, examples, probabilities=probabilities)
    return answers[0] if alone else answers


def read_input(model: TaskModel, given: Any, place: str) -> Example:
    """Returns the example of an input, which is a text, several texts, or a record with fields.

    Several texts have the order of the family's `fields`.

    Raises:
      DataError: the task needs other texts. The message begins with `place`.
    """
    task, family = model.task, FAMILIES[model.task.family]
    names, texts = family.fields(task), given
    if isinstance(given, Mapping):
        own = task.family != "question_answering" or given.keys() >= set(names)
        texts = [given.get(name) for name in (names if own else QUESTION_FIELDS)]
    elif isinstance(given, str) or task.family == "tagging":
        texts = [given]
    of_texts = isinstance(texts, Sequence) and all(isinstance(one, str) for one in texts)
    is_tokens = task.family == "tagging" and isinstance(texts[0], list | tuple)
    if not (of_texts or is_tokens) or len(texts) != len(names):
        accepted = "a text" if len(names) == 1 else f"a tuple of {len(names)} texts"
        if task.family == "tagging":
            accepted += ", a list of tokens"
        raise DataError(
            f"{place} is {given!r:.60} ({type(given).__name__}); accepted: {accepted}, or a dict "
            f"with {', '.join(names)}"
        )
    fields = {n: list(t) if is_tokens else t for n, t in zip(names, texts, strict=True)}
    return family.parse(Record(place, fields | {task.label: None}), task, model.model.head.labels)


def predict(
    model: TaskModel, examples: Sequence[Example], *, probabilities: bool = False
) -> list[dict[str, Any]]:
    """Returns the answer to each example; the family's `answers` says what it holds.

    Without `probabilities`, an answer has no `probabilities`, only that of its label. With it, a
    family without labels of a text raises ConfigError.
    """
    family, head = FAMILIES[model.task.family], model.model.head
    labelled, accepted = head.labels and family.unit == "text", f"False for {model.task.family}"
    require(labelled or not probabilities, "probabilities", probabilities, accepted)
    rows = encode_examples(examples, model.task, model.tokenizer)

    def run_batch(some: Sequence[Row], length: int) -> np.ndarray:
        size = next(rows for rows in ROWS if rows >= len(some))
        shape = {"batch_size": size, "length": length, "pad_id": model.tokenizer.pad_id}
        batch = batches.stack(some, family=family, **shape)
        return np.asarray(batch_outputs(model.model, model.params, batch))

    outputs = row_outputs(rows, run_batch, size=ROWS[-1], longest=model.task.max_length)
    predictions = family.decode(outputs, rows, examples, model.task)
    predictions = family.apply_threshold(predictions, model.threshold)
    answers = family.answers(head.labels, predictions, outputs, rows, examples)
    for answer in answers if not probabilities else ():
        answer.pop("probabilities", None)
    return answers


def row_outputs(
    rows: Sequence[Row],
    run_batch: Callable[[Sequence[Row], int], np.ndarray],
    *,
    size: int,
    longest: int,
) -> list[np.ndarray]:
    """Returns the output of each row, the input of the family's `decode`.

    Rows of similar length share a batch, which saves padding and changes no prediction.

    Args:
      rows: encoded examples.
      run_batch: (at most `size` rows, padded length) -> their outputs, and those of filler rows.
      size: the number of rows of a batch.
      longest: the largest length of a row, in tokens.
    """
    outputs: dict[int, np.ndarray] = {}
    by_length = sorted(range(len(rows)), key=lambda i: batches.num_tokens(rows[i]))
    for numbers in batches.chunks(by_length, size):
        some = [rows[i] for i in numbers]
        length = batches.padded_length(some, longest, multiple=batches.LENGTH_STEP)
        outputs |= zip(numbers, run_batch(some, length)[: len(some)], strict=True)
    return [outputs[i] for i in range(len(rows))]


@partial(jax.jit, static_argnums=0)
def batch_outputs(model: BertForTask, params: Any, batch: TaskBatch) -> jax.Array:
    """Returns the output of each row of a batch; the family's `predict_batch` computes it."""
    return FAMILIES[model.head.family].predict_batch(task_logits(model, params, batch))
