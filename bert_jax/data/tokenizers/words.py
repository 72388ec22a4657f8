"""Splits text into words, the first step of BERT's tokenization.

The rules are those of Google's `tokenization.py` (google-research/bert), with the Unicode tables
of the running Python (14.0 in Python 3.11, 15.0 in Python 3.12). Control characters are removed.
Each CJK ideograph and each punctuation mark is a word. With `lower_case`, text is lower-cased, and
its accents are removed unless `strip_accents` says otherwise.

Hugging Face's `BertTokenizer` gives the same words, with these exceptions:

- bert_jax keeps private-use characters; Hugging Face removes them like control characters;
- bert_jax makes words of the ideographs U+2B820 to U+2B91F; Hugging Face's range starts after them;
- bert_jax knows accents, punctuation and format characters that Unicode added after version 8;
  Hugging Face does not, but it lower-cases letters that got a lower-case form after version 14;
- bert_jax lower-cases a sigma at the end of a word to a final sigma; Hugging Face does not.

`tests/reference/test_tokenizer.py` lists all code points with a difference, and tests that the list
is complete. A word with a lone surrogate becomes [UNK]; Hugging Face refuses such text.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, groupby
from typing import TypeVar

# str.split treats these characters as white space. BERT removes them as control characters.
_DROPPED_SPACES = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_RAW_WORD = re.compile(r"[\S\x0b\x0c\x1c-\x1f\x85]+")
_CJK_RANGES = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
# Thai, Lao, Tibetan, Burmese, Khmer and kana put no space between words either.
_UNSPACED_RANGES = (
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF)),
    *_CJK_RANGES,
)


def _class_of(ranges: tuple[tuple[int, int], ...]) -> str:
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


_IDEOGRAPH = re.compile(f"[{_class_of(_CJK_RANGES)}]")
_UNSPACED = re.compile(f"[{_class_of(_UNSPACED_RANGES)}]")
_UNSPACED_OR_REST = re.compile(f"{_UNSPACED.pattern}|[^{_class_of(_UNSPACED_RANGES)}]+")

_REMEMBERED_WORDS = 2**16
_REMEMBERED_LENGTH = 64
_Value = TypeVar("_Value")

AlignedCharacter = tuple[str, int]
"""A character of a word, and the index of the original character that it comes from."""


class RecentWords(dict[str, _Value]):
    """A cache of a function's results for at least the last `size` distinct words.

    The cache holds at most `2 * size` words. It holds no word of more than 64 characters, because
    in text without spaces such a word is a sentence and rarely repeats. A hit is faster than in
    `functools.lru_cache`.
    """

    def __init__(self, function: Callable[[str], _Value], *, size: int = _REMEMBERED_WORDS):
        super().__init__()
        self._function = function
        self._size = size
        self._before: dict[str, _Value] = {}

    def __missing__(self, word: str) -> _Value:
        if len(word) > _REMEMBERED_LENGTH:
            return self._function(word)
        value = self._before.pop(word, None)
        if value is None:
            value = self._function(word)
        if len(self) >= self._size:
            self._before = dict(self)
            self.clear()
        self[word] = value
        return value


def split_whitespace(text: str) -> list[str]:
    """Splits text at white space, after removing control characters."""
    return _DROPPED_SPACES.sub("", text).split()


def split_word(word: str, *, lower_case: bool, strip_accents: bool | None = None) -> list[str]:
    """Cleans a word of `split_whitespace`, and splits off punctuation and ideographs.

    If `strip_accents` is None, accents are removed with `lower_case`.
    """
    if word.isascii() and word.isalnum():
        return [word.lower() if lower_case else word]
    tokens = []
    for token in "".join(map(_clean_character, word)).split():
        if lower_case:
            token = token.lower()
        if lower_case if strip_accents is None else strip_accents:
            decomposed = unicodedata.normalize("NFD", token)
            token = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        tokens += "".join(f" {c} " if _is_punctuation(c) else c for c in token).split()
    return tokens


def is_unspaced(character: str) -> bool:
    """Returns whether the character's script puts no spaces between words, like Chinese or Thai."""
    return bool(_UNSPACED.match(character))


def space_ideographs(text: str) -> str:
    """Puts spaces around ideographs. The words of the text do not change."""
    return text if text.isascii() else _IDEOGRAPH.sub(r" \g<0> ", text)


def split_unspaced(word: str) -> list[str]:
    """Splits a word: each character of a script without spaces becomes a word."""
    return [word] if word.isascii() else _UNSPACED_OR_REST.findall(word)


def locate_whitespace_split(text: str) -> Iterator[tuple[int, str]]:
    """Yields (start, word) for each word of `split_whitespace`, its control characters included."""
    for match in _RAW_WORD.finditer(text):
        yield match.start(), match.group()


def split_aligned_word(
    word: str, *, lower_case: bool, strip_accents: bool | None = None
) -> list[list[AlignedCharacter]]:
    """Returns the words of `split_word`, each character with its index in `word`."""
    cleaned = [(c, i) for i, raw in enumerate(word) for c in _clean_character(raw)]
    tokens = []
    for token in _split_aligned(cleaned):
        if lower_case:
            token = _lower(token)
        if lower_case if strip_accents is None else strip_accents:
            token = _strip_accents(token)
        spaced = [(part, i) for c, i in token for part in (f" {c} " if _is_punctuation(c) else c)]
        tokens += _split_aligned(spaced)
    return tokens


def _split_aligned(characters: list[AlignedCharacter]) -> list[list[AlignedCharacter]]:
    groups = groupby(characters, key=lambda pair: pair[0].isspace())
    return [list(group) for is_space, group in groups if not is_space]


def _lower(token: list[AlignedCharacter]) -> list[AlignedCharacter]:
    lowered = iter("".join(c for c, _ in token).lower())
    # The lower case of a sigma depends on its neighbours, but the number of characters does not.
    return [(next(lowered), i) for c, i in token for _ in c.lower()]


def _strip_accents(token: list[AlignedCharacter]) -> list[AlignedCharacter]:
    decomposed = [(part, i) for c, i in token for part in unicodedata.normalize("NFD", c)]
    ordered = chain.from_iterable(
        sorted(group, key=_combining_class) if is_mark else group
        for is_mark, group in groupby(decomposed, key=lambda pair: _combining_class(pair) > 0)
    )
    return [(c, i) for c, i in ordered if unicodedata.category(c) != "Mn"]


def _combining_class(character: AlignedCharacter) -> int:
    """Returns Unicode's combining class, the sort key of consecutive marks; 0 means no mark."""
    return unicodedata.combining(character[0])


@cache
def _clean_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return " "
    if character == "\ufffd" or category in ("Cc", "Cf"):
        return ""
    if _IDEOGRAPH.match(character):  # each ideograph is a word
        return f" {character} "
    return character


@cache
def _is_punctuation(character: str) -> bool:
    """Returns whether BERT treats a character as punctuation.

    Every ASCII symbol counts, including `$` and `+`, which Unicode does not class as punctuation.
    """
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")
