"""Tagging: predicts a tag for each token of a sentence, for parts of speech or named entities."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.data.tokenizers import words
from bert_jax.data.tokenizers.files import Tokenizer
from bert_jax.errors import DataError, require
from bert_jax.tasks.config import TaskConfig
from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.families.family import EncoderInput, Example, Family, Labels, Outcomes, Row
from bert_jax.tasks.families.texts import NO_LABEL, label_number, shortest, sorted_labels
from bert_jax.tasks.readers.records import Record

CORRECT, TOKENS, FOUND, PREDICTED, GOLD = range(5)
"""Columns of the outcomes: correct tokens, all tokens; correct, predicted and gold entities."""

Entity = tuple[int, int, str]
"""(index of the first token, index of the last token, type)."""


def label_names(records: Sequence[Record], task: TaskConfig) -> Labels:
    """Returns every tag of the training sentences, sorted."""
    tags = (record.fields.get(task.label) for record in records)
    return sorted_labels(tag for one in tags if isinstance(one, list) for tag in one)


def list_of(record: Record, name: str) -> list[Any]:
    """Returns a field that is a list; raises DataError if it is something else."""
    value = record[name]
    if not isinstance(value, list):
        raise DataError(f"{record.place}: {name} is {value!r:.60}; accepted: a list")
    return value


def parse(record: Record, task: TaskConfig, labels: Labels) -> Example:
    """Reads tokens and their tags; a token with the tag -100 has the tag None.

    If the tags are null, they are hidden. A text is then split into tokens.
    """
    hidden = record[task.label] is None
    if hidden and isinstance(record[task.text], str):
        return split_text(record.text(task.text), record.place)
    tokens = list_of(record, task.text)
    tags = [NO_LABEL] * len(tokens) if hidden else list_of(record, task.label)
    if len(tokens) != len(tags):
        raise DataError(
            f"{record.place} has {len(tags)} {task.label} for {len(tokens)} {task.text}; accepted: "
            "one for each"
        )
    tokens = [Record(record.place, {task.text: token}).text(task.text) for token in tokens]
    for token in tokens:
        if not token or set(token) & set("\r\n"):
            raise DataError(
                f"{record.place}: {task.text} has {token!r:.60}; accepted: tokens within a line"
            )
    numbers = [
        None if str(tag) == NO_LABEL else label_number(tag, record, task, labels) for tag in tags
    ]
    return Example(record.place, tuple(tokens), None if hidden else tuple(numbers))


def split_text(text: str, place: str) -> Example:
    """Returns the tokens of a text: its words and punctuation marks, and each ideograph."""
    offsets = tuple(
        (first + token[0][1], first + token[-1][1] + 1)
        for first, word in words.locate_whitespace_split(text)
        for token in words.split_aligned_word(word, lower_case=False, strip_accents=False)
    )
    return Example(place, tuple(text[start:end] for start, end in offsets), None, offsets=offsets)


def encode(number: int, example: Example, task: TaskConfig, tokenizer: Tokenizer) -> list[Row]:
    """Returns rows in which the first piece of each token has the token's tag.

    All other positions have weight 0. A sentence that is too long continues in another row, so
    every token gets a tag.
    """
    room, gold = task.max_length - 2, example.gold or [None] * len(example.texts)
    parts: list[tuple[list[int], list[tuple[int, int]]]] = [([], [])]
    for token, text in enumerate(example.texts):
        pieces = (tokenizer.encode(text) or [tokenizer.unk_id])[:room]
        if len(parts[-1][0]) + len(pieces) > room:
            parts.append(([], []))
        ids, firsts = parts[-1]
        firsts.append((1 + len(ids), token))
        ids += pieces
    rows = []
    for ids, firsts in parts:
        ids = [tokenizer.cls_id, *ids, tokenizer.sep_id]
        label, weight = [0] * len(ids), [0.0] * len(ids)
        for position, token in firsts:
            if (tag := gold[token]) is not None:
                label[position], weight[position] = tag, 1.0
        rows.append(Row((EncoderInput(ids, [0] * len(ids)),), label, weight, number, firsts))
    return rows


def decode(
    outputs: Sequence[np.ndarray],
    rows: Sequence[Row],
    examples: Sequence[Example],
    task: TaskConfig,
) -> list[list[int]]:
    """Returns a list for each example: the index of the predicted tag of each token."""
    predictions = [[0] * len(example.texts) for example in examples]
    for tags, row in zip(outputs, rows, strict=True):
        for position, token in row.alignment:
            predictions[row.example][token] = int(tags[position, 0])
    return predictions


def most_probable(logits: jax.Array) -> jax.Array:
    """Returns the index and the probability of the most probable tag of each token, [B, S, 2]."""
    best = jnp.argmax(logits, axis=-1), jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)
    return jnp.stack([best[0].astype(jnp.float32), best[1]], axis=-1)


def answers(
    labels: Labels, _: Any, outputs: Sequence[Any], rows: Sequence[Row], examples: Sequence[Example]
) -> list[dict[str, Any]]:
    """Returns the tag of each token, its probability, and the token's characters.

    The characters are those of the text. The text of a list of tokens is the tokens and spaces.
    """
    found: list[dict[str, Any]] = [{"tags": []} for _ in examples]
    for tags, row in zip(outputs, rows, strict=True):
        tokens, offsets = examples[row.example].texts, examples[row.example].offsets
        ends = np.cumsum([len(text) + 1 for text in tokens]).tolist()
        for position, token in row.alignment:
            joined = (ends[token] - 1 - len(tokens[token]), ends[token] - 1)
            start, end = offsets[token] if offsets else joined
            tag, probability = labels[int(tags[position, 0])], shortest(tags[position, 1])
            answer = {"text": tokens[token], "start": start, "end": end, "tag": tag}
            found[row.example]["tags"].append(answer | {"probability": probability})
    return found


def entities(tags: Sequence[str]) -> set[Entity]:
    """Returns the entities of a sentence, as conlleval reads IOB1, IOB2 and IOBES.

    An I or E tag also starts an entity if the type of the previous tag is different.

    Reference: conlleval of the CoNLL-2000 and 2003 shared tasks.
    """
    found: set[Entity] = set()
    first, before, before_type = -1, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        letter, _, kind = tag.partition("-")
        letter = {"L": "E", "U": "S", "M": "I"}.get(letter, letter)  # BILOU, BMES: as in seqeval
        inside = letter != "O" and first >= 0
        continues = inside and letter in "IE" and before not in "ES" and kind == before_type
        if first >= 0 and not continues:
            found.add((first, i - 1, before_type))
            first = -1
        if letter != "O" and first < 0:
            first = i
        before, before_type = letter, kind
    return found


def marks_entities(labels: Labels) -> bool:
    """Returns whether the tags mark entities: each is O, or is like B-PER (letters BIESLUM)."""
    return "O" in labels and all(
        label == "O" or (label[:1] in "BIESLUM" and label[1:2] == "-") for label in labels
    )


def score(
    predictions: Sequence[Sequence[int]], examples: Sequence[Example], labels: Labels
) -> Outcomes:
    """Returns a row of counts for each sentence; `CORRECT` to `GOLD` are the columns."""
    outcomes = np.full((len(examples), 5), np.nan)
    has_entities = marks_entities(labels)
    for row, predicted, example in zip(outcomes, predictions, examples, strict=True):
        tags = [pair for pair in zip(predicted, example.gold, strict=True) if pair[1] is not None]
        row[CORRECT] = sum(p == g for p, g in tags)
        row[TOKENS] = len(tags)
        if has_entities:
            found, gold = (entities([labels[pair[i]] for pair in tags]) for i in (0, 1))
            row[FOUND:] = len(found & gold), len(found), len(gold)
    return outcomes


def token_accuracy(outcomes: Outcomes) -> float:
    """Returns the fraction of tokens with the correct tag."""
    return float(outcomes[:, CORRECT].sum() / max(outcomes[:, TOKENS].sum(), 1))


def entity_f1(outcomes: Outcomes) -> float | None:
    """Returns the F1 of entities, or None if the tags mark none.

    An entity is correct if its first token, last token and type are correct.
    """
    found, predicted, gold = outcomes[:, FOUND:].sum(0)
    if np.isnan(gold):
        return None
    return float(2 * found / max(predicted + gold, 1))


def baselines(train: Sequence[Example], examples: Sequence[Example]) -> dict[str, list[list[int]]]:
    """Returns the most frequent tag, and that of each word; raises DataError if there is none."""
    of_word: dict[str, Counter] = defaultdict(Counter)
    for example in train:
        for word, tag in zip(example.texts, example.gold, strict=True):
            if tag is not None:
                of_word[word][tag] += 1
    total = sum(of_word.values(), Counter())
    require(total, "the number of tags in task.train", 0, "at least 1", error=DataError)
    majority = total.most_common(1)[0][0]
    best = {word: tags.most_common(1)[0][0] for word, tags in of_word.items()}
    texts = [example.texts for example in examples]
    by_word = [[best.get(word, majority) for word in one] for one in texts]
    return {"majority": [[majority] * len(one) for one in texts], "majority_of_word": by_word}


def write_predictions(
    predictions: Sequence[Sequence[int]], examples: Sequence[Example], labels: Labels
) -> tuple[str, str]:
    """Returns the input of conlleval: token, gold tag and predicted tag.

    A space in a token becomes a no-break space. Tokens without a gold tag are left out. A sentence
    whose tags are hidden has all tokens with their predicted tags, and no gold tags.
    """
    sentences = []
    for predicted, example in zip(predictions, examples, strict=True):
        shown = [re.sub(r"[ \t]", "\u00a0", word) for word in example.texts]
        if example.gold is None:
            lines = zip(shown, predicted, strict=True)
        else:
            rows = zip(shown, example.gold, predicted, strict=True)
            lines = (
                (f"{word} {labels[gold]}", tag) for word, gold, tag in rows if gold is not None
            )
        sentences.append("".join(f"{line} {labels[tag]}\n" for line, tag in lines))
    return "conll", "\n".join(sentences)


TAGGING = Family(
    unit="token",
    row_label="token",
    label_names=label_names,
    fields=lambda task: (task.text,),
    parse=parse,
    outputs=len,
    encode=encode,
    loss=CLASSIFICATION.loss,
    predict_batch=most_probable,
    decode=decode,
    answers=answers,
    gold=lambda gold, labels: [None if tag is None else labels[tag] for tag in gold],
    score=score,
    metrics={"accuracy": token_accuracy, "entity_f1": entity_f1},
    baselines=baselines,
    write_predictions=write_predictions,
)
