"""Files of SQuAD 1.1 and 2.0."""

import json
from collections.abc import Iterator
from pathlib import Path

from bert_jax.errors import DataError
from bert_jax.files import parse_json
from bert_jax.tasks.readers.records import Fields, numbered_lines


def read_squad(path: Path) -> Iterator[Fields]:
    """Returns a record for each question: `id`, `question`, `context` and `answers`.

    `answers` is a list of (text, start), where start counts characters of the context. The list is
    empty if the question has no answer, and the field is missing if the file hides the answers.

    Raises:
      DataError: the file cannot be read, or does not have SQuAD's form.
    """
    line, position, place = 1, 0, f"{path}:1"
    content = "\n".join(line for _, line in numbered_lines(path))
    # `Record.text` refuses half of a surrogate pair, and names the question.
    file = parse_json(content, place=path, surrogates=True)
    try:
        for article in file["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    # The file has the ids in this order, so each search starts at the last id.
                    written = json.dumps(question["id"], ensure_ascii=content.isascii())
                    at = max(content.find(written, position), position)
                    line, position = line + content.count("\n", position, at), at
                    str(question["id"]).encode()  # the file of predictions has the ids
                    place = f"{path}:{line}, question {question['id']}"
                    fields = {
                        "id": str(question["id"]),
                        "question": question["question"],
                        "context": paragraph["context"],
                    }
                    if question.get("is_impossible"):
                        fields["answers"] = []
                    elif "answers" in question:
                        answers = question["answers"]
                        fields["answers"] = [(one["text"], one["answer_start"]) for one in answers]
                    yield place, fields.copy
                    place = f"{path}:{line}, after question {question['id']},"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{place} does not have SQuAD's form ({type(error).__name__}: {error}); accepted: "
            "data, paragraphs, context, qas, id, question, answers, text, answer_start"
        ) from error
