"""A part of a passage as the answer to a question, or none: SQuAD 1.1 and 2.0."""

import bisect
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.data.tokenizers.wordpiece import Encoding
from bert_jax.errors import DataError
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families.answers import exact_match, normalize_answer, overlap_f1
from bert_jax.tasks.families.family import (
    EncoderInput,
    Example,
    Family,
    Labels,
    Outcomes,
    Row,
    TaskBatch,
)
from bert_jax.tasks.families.metrics import mean_of
from bert_jax.tasks.readers.records import Record
from bert_jax.training.losses import cross_entropy
from bert_jax.training.metrics import Mean

EXACT, F1, ANSWERABLE = range(3)
"""Columns of the outcomes."""

QUESTION, PASSAGE = 0, 1
"""Of an example's texts."""


class Answer(NamedTuple):
    """A predicted answer."""

    text: str
    null_margin: float
    """Score of no answer less that of this one."""


class Window(NamedTuple):
    """Where the tokens of a row's passage stand."""

    first: int
    """Position of the first of them."""
    offsets: list[tuple[int, int]]
    """Of each in the passage."""
    best: list[bool]
    """Whether no other window shows more of what surrounds the token."""


def parse(record: Record, task: TaskConfig, labels: Labels) -> Example:
    """Reads question, passage and answers, each of which has to be where it is said to be."""
    passage, given = record.text(task.text_pair), record[task.label]
    name = str(record.fields.get("id", record.place))
    texts = (record.text(task.text), passage)
    if given is None:  # hidden
        return Example(record.place, texts, None, name)
    answers = []
    for text, start in answers_of(given, passage, place=record.place, field=task.label):
        if start < 0 or passage[start : start + len(text)] != text:
            raise DataError(
                f"{record.place}: answer {text!r:.60} is not at character {start} of its passage; "
                "accepted: a part of it"
                if start >= 0
                else f"{record.place}: answer {text!r:.60} is not in its passage"
            )
        if not text.strip():
            raise DataError(f"{record.place}: an answer is empty; accepted: a part of its passage")
        answers.append((text, start))
    if not answers and not task.no_answer:
        raise DataError(f"{record.place} has no answer; accepted: some, or task.no_answer=true")
    return Example(record.place, texts, tuple(answers), name)


def answers_of(given: Any, passage: str, *, place: str, field: str) -> list[tuple[str, int]]:
    """Returns text and start of each answer.

    Accepted is one or a list of them: a text, which is searched for, (text, start), or
    {"text": ..., "answer_start": ...}; and all in one as Hugging Face has them,
    {"text": [...], "answer_start": [...]}. An empty list is no answer.

    Raises:
      DataError: it is something else.
    """
    match given:
        case {"text": [*texts], "answer_start": [*starts]} if len(texts) == len(starts):
            given = list(zip(texts, starts, strict=True))
        case list():
            pass
        case _:
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

    A window that does not hold the whole of the first answer has [CLS] for its label, as in
    run_squad.py of google-research/bert.
    """
    question = tokenizer.encode(example.texts[QUESTION])[: task.max_question_length]
    passage = tokenizer.encode_with_offsets(example.texts[PASSAGE])
    answer = token_span(passage, *example.gold[0]) if example.gold else None
    # An answer of characters that vanish is no token, and can't be learned from.
    weight = float(answer is not None or not example.gold)
    room = task.max_length - len(question) - 3
    starts = window_starts(len(passage.ids), room=room, stride=task.stride)
    head = [tokenizer.cls_id, *question, tokenizer.sep_id]
    rows = []
    for start in starts:
        ids = passage.ids[start : start + room]
        label = (0, 0)
        if answer and start <= answer[0] and answer[1] < start + len(ids):
            label = (answer[0] - start + len(head), answer[1] - start + len(head))
        one = EncoderInput([*head, *ids, tokenizer.sep_id], [0] * len(head) + [1] * (len(ids) + 1))
        offsets = passage.offsets[start : start + room]
        best = [
            shows_most(token, start, starts, room=room, length=len(passage.ids))
            for token in range(start, start + len(ids))
        ]
        rows.append(Row((one,), label, weight, number, Window(len(head), offsets, best)))
    return rows


def window_starts(length: int, *, room: int, stride: int) -> list[int]:
    """Returns where windows of `room` tokens begin, the last one reaching the end."""
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + min(stride, room))
    return starts


def shows_most(token: int, start: int, starts: Sequence[int], *, room: int, length: int) -> bool:
    """Whether a window shows as much around a token as any: the lesser of both sides counts.

    Of equals the first is taken; longer windows win by a hundredth of their length.
    """

    def shown(first: int) -> float:
        last = min(first + room, length) - 1
        return min(token - first, last - token) + 0.01 * (last - first + 1)

    having = [first for first in starts if first <= token < first + room]
    return start == max(having, key=shown)


def token_span(passage: Encoding, text: str, start: int) -> tuple[int, int] | None:
    """Returns first and last token of a part of the passage; None where no token is in it."""
    end = start + len(text)
    first = bisect.bisect_right([stop for _, stop in passage.offsets], start)
    last = bisect.bisect_left([begin for begin, _ in passage.offsets], end) - 1
    return (first, last) if first <= last else None


def decode(
    answers: Sequence[np.ndarray],
    rows: Sequence[Row],
    examples: Sequence[Example],
    task: TaskConfig,
) -> list[Answer]:
    """Returns the best answer of each example over its windows, and its margin to none."""
    best: list[tuple[float, tuple[int, int]]] = [(-np.inf, (0, 0))] * len(examples)
    null = np.full(len(examples), np.inf)
    for logits, row in zip(answers, rows, strict=True):
        start, end = logits[:, 0].astype(np.float64), logits[:, 1].astype(np.float64)
        null[row.example] = min(null[row.example], start[0] + end[0])
        found = best_span(start, end, row.origin, max_length=task.max_answer_length)
        best[row.example] = max(best[row.example], found)
    return [
        Answer(example.texts[PASSAGE][begin:end], float(none - value))
        for example, (value, (begin, end)), none in zip(examples, best, null, strict=True)
    ]


def best_span(
    start: np.ndarray, end: np.ndarray, window: Window, *, max_length: int
) -> tuple[float, tuple[int, int]]:
    """Returns the highest score of a span that begins where the window shows most, and its place
    in the passage.
    """
    count = len(window.offsets)
    inside = slice(window.first, window.first + count)
    starts = np.where(window.best, start[inside], -np.inf)
    scores = starts[:, None] + end[inside][None]
    lengths = np.arange(count)[None] - np.arange(count)[:, None] + 1
    scores = np.where((lengths >= 1) & (lengths <= max_length), scores, -np.inf)
    if not scores.size:
        return -np.inf, (0, 0)
    first, last = np.unravel_index(np.argmax(scores), scores.shape)
    place = (window.offsets[first][0], window.offsets[last][1])
    return float(scores[first, last]), place


def settle(predictions: Sequence[Answer], examples: Sequence[Example], metric: str) -> float | None:
    """Returns the margin above which no answer is given so that the F1 is the highest.

    None, and so always an answer, where every question has one or only those that have one are
    measured. As `find_best_thresh` of SQuAD 2's evaluation script: all questions are first left
    without an answer, then answered from the surest on.
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
        # Equal margins are answered together.
        if current > best and following > predictions[i].null_margin:
            best, threshold = current, predictions[i].null_margin
    return threshold


def judge(
    predictions: Sequence[Answer],
    examples: Sequence[Example],
    labels: Labels,
    threshold: float | None,
) -> Outcomes:
    """Returns exact match, F1 and whether there is an answer; the best over gold answers."""
    outcomes = np.zeros((len(examples), 3))
    for row, predicted, example in zip(outcomes, predictions, examples, strict=True):
        text = given_answer(predicted, threshold)
        golds = [text for text, _ in example.gold if normalize_answer(text)] or [""]
        row[EXACT] = max(exact_match(text, gold) for gold in golds)
        row[F1] = max(overlap_f1(text, gold) for gold in golds)
        row[ANSWERABLE] = bool(example.gold)
    return outcomes


def given_answer(predicted: Answer, threshold: float | None) -> str:
    """Returns the text, or none if its margin says so."""
    none = threshold is not None and predicted.null_margin > threshold
    return "" if none else predicted.text


def of_part(column: int, answerable: bool):
    """Returns the metric that is a column's mean over questions with, or without, an answer."""

    def metric(outcomes: Outcomes) -> float | None:
        part = outcomes[outcomes[:, ANSWERABLE] == answerable, column]
        return float(part.mean()) if len(part) else None

    return metric


def baselines(train: Sequence[Example], examples: Sequence[Example]) -> dict[str, list[Answer]]:
    """No answer; the sentence of the passage that shares most words with the question."""
    return {
        "no_answer": [Answer("", 0.0)] * len(examples),
        "overlapping_sentence": [Answer(overlapping(*one.texts), 0.0) for one in examples],
    }


def overlapping(question: str, passage: str) -> str:
    """Returns the sentence of a passage that shares most words with a question."""
    sentences = re.split(r"(?<=[.!?])\s+", passage)
    asked = Counter(normalize_answer(question).split())
    shared = [(Counter(normalize_answer(one).split()) & asked).total() for one in sentences]
    return sentences[int(np.argmax(shared))]


def write(
    predictions: Sequence[Answer],
    examples: Sequence[Example],
    labels: Labels,
    threshold: float | None,
) -> tuple[str, str]:
    """Returns what SQuAD's evaluation scripts read: the answer of each question's id."""
    texts = {
        example.name: given_answer(predicted, threshold)
        for predicted, example in zip(predictions, examples, strict=True)
    }
    return "json", json.dumps(texts, ensure_ascii=False, indent=1) + "\n"


def span_loss(logits, batch: TaskBatch) -> Mean:
    """Mean of the cross entropies of start and end over the tokens of a row.

    run_squad.py of google-research/bert counts padding among them, so that its loss depends on how
    far rows are padded; this one does not.
    """
    is_token = batch.pack_ids[:, 0, :, None] > 0
    # Finite: rows that only fill up a batch have no token, and weigh 0.
    logits = jnp.where(is_token, logits, -1e9)
    start, end = (cross_entropy(logits[..., i], batch.labels[:, i]) for i in range(2))
    return Mean.of((start + end) / 2, batch.weights)


QUESTION_ANSWERING = Family(
    unit="token",
    dropout=False,
    row_label="span",
    label_names=lambda records, task: (),
    parse=parse,
    outputs=lambda labels: 2,
    encode=encode,
    loss=span_loss,
    decode=decode,
    settle=settle,
    judge=judge,
    metrics={
        "f1": mean_of(F1),
        "exact_match": mean_of(EXACT),
        "answerable_f1": of_part(F1, True),
        "answerable_exact_match": of_part(EXACT, True),
        "unanswerable_accuracy": of_part(EXACT, False),
    },
    baselines=baselines,
    write=write,
)
