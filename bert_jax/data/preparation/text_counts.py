"""Counts what `prepare` warns of: folded letters, short sentences and short documents."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from bert_jax.data.config import DataConfig
from bert_jax.data.tokenizers.words import split_unspaced

MOST_LETTERS = 2**20
"""Approximate number of letters that are counted in a shard, to save time."""


def count_text(
    counts: Counter[str], text: str, sentences: Sequence[str], *, config: DataConfig
) -> None:
    """Adds a document to the counts of a shard.

    - `folded_letters` of the `letters` lose an accent, a vowel sign or another mark.
    - `short_sentences` have fewer than three words. In Chinese, each character is a word.
    - `short_documents` have fewer than three sentences.
    """
    counts["short_documents"] += len(sentences) < 3
    counts["short_sentences"] += sum(map(_is_short, sentences))
    strips = config.lower_case if config.strip_accents is None else config.strip_accents
    if config.tokenizer == "wordpiece" and counts["letters"] < MOST_LETTERS:
        for character, count in Counter(text).items():
            is_mark = unicodedata.category(character) == "Mn"
            if is_mark or character.isalpha():
                counts["letters"] += count
                counts["folded_letters"] += count * (strips and (is_mark or _is_folded(character)))


def _is_short(sentence: str) -> bool:
    return sentence.count(" ") < 2 and sum(len(split_unspaced(w)) for w in sentence.split()) < 3


@cache
def _is_folded(letter: str) -> bool:
    """Returns whether the letter without its accents differs from the letter by more than case."""
    return unicodedata.normalize("NFD", letter.lower()) != letter.lower()
