"""Exact match and F1 of an answer, counted as SQuAD's evaluation scripts count them.

Reference: evaluate-v1.1.py and evaluate-v2.0.py of https://rajpurkar.github.io/SQuAD-explorer/
"""

import re
import string
from collections import Counter

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Returns lower-case words without ASCII punctuation and articles, joined by single spaces."""
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", text).split())


def exact_match(predicted: str, gold: str) -> float:
    """Returns 1 if both answers are equal after normalization, and 0 otherwise."""
    return float(normalize_answer(predicted) == normalize_answer(gold))


def overlap_f1(predicted: str, gold: str) -> float:
    """Returns the F1 of the shared words. Two answers without words agree, so they get 1."""
    words, wanted = normalize_answer(predicted).split(), normalize_answer(gold).split()
    if not words or not wanted:
        return float(words == wanted)
    shared = (Counter(words) & Counter(wanted)).total()
    return 2 * shared / (len(words) + len(wanted))
