"""Splits text into sentences with the library sentencex, by the rules of a language."""

import re
import unicodedata
from itertools import accumulate, pairwise
from pathlib import Path

from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

_FILE = Path(__file__).with_name("languages.txt")
LANGUAGES = dict(line.split(" ", 1) for line in _FILE.read_text(encoding="utf-8").splitlines())
"""The English name of each code of ISO 639-1. If sentencex has no rules for a language, it uses
those of a related one, or of English."""

SENTENCE_F1 = {
    "ar": 1.0, "cs": 0.85, "de": 1.0, "el": 0.86, "en": 0.93, "fi": 1.0, "hi": 0.71, "tr": 1.0,
    "zh": 0.79,
}  # fmt: skip
"""F1 of the sentences that `split_sentences` finds. A sentence counts if its first and its last
character are right. tests/data/sentences.txt has 20 sentences of each language, split by hand."""

LOWEST_F1 = 0.95

# At these places, sentencex 1.0.32 ends the process with a panic of Rust. A plain space instead of
# the wide one changed no sentence of 2,059 random lines with such a place and without a panic.
_WIDE_SPACE = re.compile(r"\b([A-Z]\s*)[^\S\x00-\x7f](?=\.)")
_CJK_END = re.compile(r".+?(?:(?:[。！？]+|…{2,})[”’」』）]*|$)")
_NO_END = re.compile(r"\b(?:[^\W\d_]|[IVXLC]+)\.$")
_GERMAN_NO_END = re.compile(r"\b(?:[^\W\d_]|[IVXLC]+|\d{1,2})\.$")
_MAY_CONTINUE = tuple(".\"'”’“»)]」』）")


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Returns the stripped sentences of a text in order. A sentence never crosses a line.

    sentencex finds the sentences of English, because data that were prepared earlier must keep
    their sentences. In other languages, these rules correct the result:

    - A sentence ends at 。！？ and …… also if no space follows.
    - A sentence does not begin with a lower-case letter after a full stop, a closing bracket or a
      quotation mark (rule SB8 of Unicode Standard Annex #29).
    - The full stop of an initial or of a Roman numeral ends no sentence. In German, the full stop
      after one or two digits does not either, because it marks an ordinal number.
    """
    split = _segment if language == "en" else _corrected
    sentences = (one.strip() for line in text.split("\n") for one in split(language, line))
    return [sentence for sentence in sentences if not is_blank(sentence)]


def _segment(language: str, line: str) -> list[str]:
    """Returns the sentences of sentencex, also if a space such as U+00A0 stands in `A .`."""
    if line.isascii() or not _WIDE_SPACE.search(line):
        return segment(language, line)
    found = segment(language, _WIDE_SPACE.sub(r"\1 ", line))
    return [line[start:end] for start, end in pairwise(accumulate(map(len, found), initial=0))]


def _corrected(language: str, line: str) -> list[str]:
    sentences = [""]
    for part in (part for found in _segment(language, line) for part in _CJK_END.findall(found)):
        before = sentences[-1].rstrip()
        first = next((c for c in part if c.isalpha() or c in ".!?…"), "")
        if (_GERMAN_NO_END if language == "de" else _NO_END).search(before) or (
            before.endswith(_MAY_CONTINUE) and first.islower()
        ):
            sentences[-1] += part
        else:
            sentences.append(part)
    return sentences


def is_blank(text: str) -> bool:
    """Returns whether a text shows nothing: white space, control and format characters.

    Format characters, such as U+200B and U+FEFF, have no width.
    """
    return all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in text)
