"""Question answering: predicts a span of a passage, or no answer, as in SQuAD 1.1 and 2.0."""

import bisect
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.data.tokenizers.wordpiece import Encoding
from bert_jax.errors import DataError
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families.answers import exact_match, normalize_answer, overlap_f1
from bert_jax.tasks.families.family import EncoderInput, Example, Family, Labels, Outcomes, Row
from bert_jax.tasks.families.texts import field_names, shortest
from bert_jax.tasks.readers.records import Record
from bert_jax.training.losses import cross_entropy
from bert_jax.training.metrics import Mean

EXACT, F1, ANSWERABLE = range(3)
"""Columns of the outcomes: exact match, F1, and whether the question has an answer."""

QUESTION, PASSAGE = 0, 1
"""Indices of an example's texts."""


class Answer(NamedTuple):
    """A predicted answer."""

    text: str
    null_margin: float
    """The score of no answer minus the score of this answer."""
    span: tuple[int, int] = (0, 0)
    """The characters of this answer in the passage: (start, end)."""
    probability: float = 1.0
    """The probability of this answer among all spans of at most `max_answer_length` tokens and,
    with `no_answer`, no answer."""
    null_probability: float = 0.0
    """The probability of no answer."""


class Window(NamedTuple):
    """The passage tokens of a row."""

    first: int
    """The position of the first passage token in the row."""
    offsets: list[tuple[int, int]]
    """The character offsets of each token in the passage: (start, end)."""
    best: np.ndarray
    """For each token, whether this window gives it the most context; see `best_windows`."""


def parse(record: Record, task: TaskConfig, labels: Labels) -> Example:
    """Reads question, passage and answers, and checks the position of each answer."""
    passage, given = record.text(task.text_pair), record[task.label]
    name = str(record.fields.get("id", record.place))
    texts = (record.text(task.text), passage)
    if given is None:  # hidden
        return Example(record.place, texts, None, name)
    answers = answers_of(given, passage, place=record.place, field=task.label)
    for text, start in answers:
        if start < 0 or passage[start : start + len(text)] != text or not text.strip():
            where = f" at character {start}" if start >= 0 else ""
            raise DataError(
                f"{record.place}: answer {text!r:.60} is not in its passage{where}; accepted: a "
                "part of the passage"
            )
    if not answers and not task.no_answer:
        raise DataError(f"{record.place} has no answer; accepted: any, or task.no_answer=true")
    return Example(record.place, texts, tuple(answers), name)


def answers_of(given: Any, passage: str, *, place: str, field: str) -> list[tuple[str, int]]:
    """Returns the text of each answer and its start, in characters of the passage.

    An answer is a text, (text, start) or {"text": ..., "answer_start": ...}. Without a start, the
    first occurrence of the text counts. The field holds an answer, a list of answers, or Hugging
    Face's {"text": [...], "answer_start": [...]}. An empty list means no answer.

    Raises:
      DataError: the field has another form.
    """
    match given:
        case {"text": [*texts], "answer_start": [*starts]} if len(texts) == len(starts):
            given = list(zip(texts, starts, strict=True))
        case _ if not isinstance(given, list):
            given = [given]
    answers = []
    for one in given:
        match one:
            case str(text):
                answers.append((text, passage.find(text)))
            case [str(text), int(start)] | {"text": str(text), "answer_start": int(start)}:
                answers.append((text, start))
            case _:
                raise DataError(
                    f"{place}: {field} has {one!r:.60}; accepted: a text, or text and answer_start "
                    "(a number)"
                )
    return answers


def encode(number: int, example: Example, task: TaskConfig, tokenizer: Tokenizer) -> list[Row]:
    """Returns a row for each window of the passage: [CLS] question [SEP] window [SEP].

    If a window does not contain the whole first answer, its label is the position of [CLS], as in
    run_squad.py of google-research/bert.
    """
    question = tokenizer.encode(example.texts[QUESTION])[: task.max_question_length]
    passage = tokenizer.encode_with_offsets(example.texts[PASSAGE])
    answer = token_span(passage, *example.gold[0]) if example.gold else None
    # The tokenizer may remove all characters of an answer. The rows then have weight 0.
    weight = float(answer is not None or not example.gold)
    room = task.max_length - len(question) - 3
    starts = window_starts(len(passage.ids), room=room, stride=task.stride)
    best = best_windows(starts, room=room, length=len(passage.ids))
    head = [tokenizer.cls_id, *question, tokenizer.sep_id]
    rows = []
    for index, start in enumerate(starts):
        inside = slice(start, start + room)
        ids = passage.ids[inside]
        label = (0, 0)
        if answer and start <= answer[0] and answer[1] < start + len(ids):
            label = (answer[0] - start + len(head), answer[1] - start + len(head))
        one = EncoderInput([*head, *ids, tokenizer.sep_id], [0] * len(head) + [1] * (len(ids) + 1))
        window = Window(len(head), passage.offsets[inside], best[inside] == index)
        rows.append(Row((one,), label, weight, number, window))
    return rows


def window_starts(length: int, *, room: int, stride: int) -> list[int]:
    """Returns the first token of each window. Windows of `room` tokens cover the whole passage."""
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + min(stride, room))
    return starts


def best_windows(starts: Sequence[int], *, room: int, length: int) -> np.ndarray:
    """Returns for each token the index of the window that gives it the most context, [length].

    As in run_squad.py, the context is the number of tokens to the left or right, whichever is
    smaller, plus a hundredth of the window's length. Among equal windows, the first is taken.
    """
    tokens, first = np.arange(length), np.array(starts)[:, None]
    last = np.minimum(first + room, length) - 1
    on_a_side = np.minimum(tokens - first, last - tokens)
    context = np.where(on_a_side >= 0, on_a_side + 0.01 * (last - first + 1), -np.inf)
    return context.argmax(axis=0)


def token_span(passage: Encoding, text: str, start: int) -> tuple[int, int] | None:
    """Returns the first and the last token of a text in the passage; None if it has no token."""
    end = start + len(text)
    first = bisect.bisect_right([stop for _, stop in passage.offsets], start)
    last = bisect.bisect_left([begin for begin, _ in passage.offsets], end) - 1
    return (first, last) if first <= last else None


def decode(
    outputs: Sequence[np.ndarray],
    rows: Sequence[Row],
    examples: Sequence[Example],
    task: TaskConfig,
) -> list[Answer]:
    """Returns the best answer of each example over its windows."""
    best: list[tuple[float, tuple[int, int]]] = [(-np.inf, (0, 0))] * len(examples)
    null, total = np.full(len(examples), np.inf), np.full(len(examples), -np.inf)
    for logits, row in zip(outputs, rows, strict=True):
        start, end = logits[:, 0].astype(np.float64), logits[:, 1].astype(np.float64)
        null[row.example] = min(null[row.example], start[0] + end[0])
        scores = span_scores(start, end, row.alignment, max_length=task.max_answer_length)
        found = best_span(scores, row.alignment)
        best[row.example] = max(best[row.example], found)
        if np.isfinite(found[0]):  # another window may be the best for all tokens
            of_window = found[0] + np.log(np.exp(scores - found[0]).sum())
            total[row.example] = np.logaddexp(total[row.example], of_window)
    if task.no_answer:
        total = np.logaddexp(total, null)
    total = np.where(np.isfinite(total), total, null)  # an empty passage has no span
    answers = []
    for example, (value, span), none, whole in zip(examples, best, null, total, strict=True):
        probability, no_answer = (float(np.exp(score - whole)) for score in (value, none))
        passage, (start, end) = example.texts[PASSAGE], span
        # No token has the accents that the tokenizer removes; the end may not separate them.
        while start < end < len(passage) and unicodedata.category(passage[end]) == "Mn":
            end += 1
        text, span = passage[start:end], (start, end)
        answers.append(Answer(text, float(none - value), span, probability, no_answer))
    return answers


def span_scores(
    start: np.ndarray, end: np.ndarray, window: Window, *, max_length: int
) -> np.ndarray:
    """Returns the score of the span from token i to token j of a window, [i, j].

    The score is -inf if the span has more than `max_length` tokens, or if another window is the
    best window for its first token.
    """
    count = len(window.offsets)
    inside = slice(window.first, window.first + count)
    starts = np.where(window.best, start[inside], -np.inf)
    scores = starts[:, None] + end[inside][None]
    lengths = np.arange(count)[None] - np.arange(count)[:, None] + 1
    return np.where((lengths >= 1) & (lengths <= max_length), scores, -np.inf)


def best_span(scores: np.ndarray, window: Window) -> tuple[float, tuple[int, int]]:
    """Returns the score of the best span and its characters in the passage, (start, end)."""
    if not scores.size:
        return -np.inf, (0, 0)
    first, last = np.unravel_index(np.argmax(scores), scores.shape)
    place = (window.offsets[first][0], window.offsets[last][1])
    return float(scores[first, last]), place


def choose_threshold(
    predictions: Sequence[Answer], examples: Sequence[Example], metric: str
) -> float | None:
    """Returns the threshold with the highest F1. Answers with a larger `null_margin` are dropped.

    Returns None, which keeps every answer, if all questions have an answer or if the metric
    measures only questions that have an answer. The thresholds are tried in ascending order, as in
    `find_best_thresh` of SQuAD 2's script: the first drops all answers, the last keeps all.
    """
    if metric.startswith("answerable") or all(example.gold for example in examples):
        return None
    order = sorted(range(len(examples)), key=lambda i: predictions[i].null_margin)
    current = best = float(sum(not example.gold for example in examples))
    threshold = predictions[order[0]].null_margin - 1.0
    for place, i in enumerate(order):
        gold = examples[i].gold
        gained = max((overlap_f1(predictions[i].text, text) for text, _ in gold), default=-1.0)
        current += gained
        following = predictions[order[place + 1]].null_margin if place + 1 < len(order) else np.inf
        # A threshold can't separate predictions with equal margins.
        if current > best and following > predictions[i].null_margin:
            best, threshold = current, predictions[i].null_margin
    return threshold


def apply_threshold(predictions: list[Answer], threshold: float | None) -> list[Answer]:
    """Returns the predictions; if the margin is above the threshold, the text becomes empty."""
    if threshold is None:
        return predictions
    return [one._replace(text="") if one.null_margin > threshold else one for one in predictions]


def describe(labels: Labels, predictions: Sequence[Answer], *_: Any) -> list[dict[str, Any]]:
    """Returns each answer, its characters in the passage and its probability.

    If there is no answer, the text is empty, and the probability is that of no answer.
    """
    found = []
    for one in predictions:
        start, end = one.span if one.text else (None, None)
        probability = shortest(one.probability if one.text else one.null_probability)
        found.append({"answer": one.text, "start": start, "end": end, "probability": probability})
    return found


def score(predictions: Sequence[Answer], examples: Sequence[Example], labels: Labels) -> Outcomes:
    """Returns exact match and F1 with the best gold answer, and whether a gold answer exists."""
    outcomes = np.zeros((len(examples), 3))
    for row, predicted, example in zip(outcomes, predictions, examples, strict=True):
        golds = [text for text, _ in example.gold if normalize_answer(text)] or [""]
        row[EXACT] = max(exact_match(predicted.text, gold) for gold in golds)
        row[F1] = max(overlap_f1(predicted.text, gold) for gold in golds)
        row[ANSWERABLE] = bool(example.gold)
    return outcomes


def mean(outcomes: Outcomes, *, column: int, answerable: bool | None = None) -> float | None:
    """Returns a column's mean over all, only the answerable or only the unanswerable questions."""
    if answerable is not None:
        outcomes = outcomes[outcomes[:, ANSWERABLE] == answerable]
    return float(outcomes[:, column].mean()) if len(outcomes) else None


def baselines(train: Sequence[Example], examples: Sequence[Example]) -> dict[str, list[Answer]]:
    """Returns two baselines: no answer, and the sentence that shares most words with a question."""
    return {
        "no_answer": [Answer("", 0.0)] * len(examples),
        "overlapping_sentence": [Answer(overlapping_sentence(*one.texts), 0.0) for one in examples],
    }


def overlapping_sentence(question: str, passage: str) -> str:
    """Returns the sentence of a passage that shares most words with a question."""
    sentences = re.split(r"(?<=[.!?])\s+", passage)
    asked = Counter(normalize_answer(question).split())
    shared = [(Counter(normalize_answer(one).split()) & asked).total() for one in sentences]
    return sentences[int(np.argmax(shared))]


def write_predictions(
    predictions: Sequence[Answer], examples: Sequence[Example], labels: Labels
) -> tuple[str, str]:
    """Returns the input of SQuAD's evaluation scripts: the answer to each question by its id."""
    answers = {one.name: answer.text for answer, one in zip(predictions, examples, strict=True)}
    return "json", json.dumps(answers, ensure_ascii=False, indent=1) + "\n"


def span_loss(logits, batch) -> Mean:
    """Returns the mean of the cross entropies of start and end; the softmax leaves out padding.

    The softmax of run_squad.py of google-research/bert includes padding, so the loss there depends
    on the padded length.
    """
    is_token = batch.pack_ids[:, 0, :, None] > 0
    # The value is finite: rows of only padding have no token, and -inf would give them nan.
    logits = jnp.where(is_token, logits, -1e9)
    start, end = (cross_entropy(logits[..., i], batch.labels[:, i]) for i in range(2))
    return Mean.of((start + end) / 2, batch.weights)


QUESTION_ANSWERING = Family(
    unit="token",
    dropout=False,
    row_label="span",
    label_names=lambda records, task: (),
    fields=field_names,
    parse=parse,
    outputs=lambda labels: 2,
    encode=encode,
    loss=span_loss,
    decode=decode,
    choose_threshold=choose_threshold,
    apply_threshold=apply_threshold,
    answers=describe,
    gold=lambda gold, labels: [text for text, _ in gold],
    score=score,
    metrics={
        "f1": partial(mean, column=F1),
        "exact_match": partial(mean, column=EXACT),
        "answerable_f1": partial(mean, column=F1, answerable=True),
        "answerable_exact_match": partial(mean, column=EXACT, answerable=True),
        "unanswerable_accuracy": partial(mean, column=EXACT, answerable=False),
    },
    baselines=baselines,
    write_predictions=write_predictions,
)
