"""The words of a text, as BERT splits it before its vocabulary is asked.

The semantics are those of Google's `tokenization.py` (google-research/bert), with the Unicode
tables of the Python that runs (14.0 in Python 3.11): control characters vanish, each CJK ideograph
and punctuation mark is a word, and with `lower_case` the text is lower-cased and loses its accents.

Hugging Face's `BertTokenizer` gives the same words but where its tables or its code differ:

- private-use characters, which it removes as if they were control characters, stay;
- the ideographs U+2B820 to U+2B91F are words, as those around them are (its range starts late);
- accents, punctuation and format characters added to Unicode after version 8 are treated as such,
  and letters whose lower case came after version 14 are not lower-cased; there, the reverse;
- a sigma that ends a word becomes a final one (`str.lower` does so), there it does not.

`tests/reference/test_tokenizer.py` lists every such code point and tests that there are no others.
A lone surrogate, which it refuses, is a character of no vocabulary: its word will be [UNK].
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain, groupby
from typing import TypeVar

# White space to str.split, but control characters, which vanish, to BERT.
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
# Thai, Lao, Tibetan, Burmese, Khmer and kana, which put no space between words either.
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
"""A character of a word and the index of the original character that it comes from."""


class RecentWords(dict[str, _Value]):
    """What a function gives for a word, remembered for the last `size` distinct ones at least.

    At most twice as many are held, and none of more than 64 characters: where no spaces are, that
    is a sentence, which does not come back. A known word is found faster than by
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
    """First step of BERT's tokenization: what white space separates."""
    return _DROPPED_SPACES.sub("", text).split()


def split_word(word: str, *, lower_case: bool) -> list[str]:
    """Second step: clean one result of `split_whitespace`; split punctuation and CJK off."""
    if word.isascii() and word.isalnum():
        return [word.lower() if lower_case else word]
    tokens = []
    for token in "".join(map(_clean_character, word)).split():
        if lower_case:
            decomposed = unicodedata.normalize("NFD", token.lower())
            token = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        tokens += "".join(f" {c} " if _is_punctuation(c) else c for c in token).split()
    return tokens


def is_ideograph(character: str) -> bool:
    """Whether it is one of the Chinese characters, each of which BERT makes a word."""
    return bool(_IDEOGRAPH.match(character))


def is_unspaced(character: str) -> bool:
    """Whether its script puts no space between words, as Chinese, Japanese and Thai."""
    return bool(_UNSPACED.match(character))


def space_ideographs(text: str) -> str:
    """Puts spaces around ideographs, which changes no word: each is one of its own."""
    return text if text.isascii() else _IDEOGRAPH.sub(r" \g<0> ", text)


def split_unspaced(word: str) -> list[str]:
    """Splits characters of scripts without spaces off, each as a word."""
    return [word] if word.isascii() else _UNSPACED_OR_REST.findall(word)


def locate_whitespace_split(text: str) -> Iterator[tuple[int, str]]:
    """`split_whitespace` with where each result starts; what vanishes is still in it."""
    for match in _RAW_WORD.finditer(text):
        yield match.start(), match.group()


def split_aligned_word(word: str, *, lower_case: bool) -> list[list[AlignedCharacter]]:
    """`split_word` for a result of `locate_whitespace_split`; indices are into `word`."""
    cleaned = [(c, i) for i, raw in enumerate(word) for c in _clean_character(raw)]
    tokens = []
    for token in _split_aligned(cleaned):
        if lower_case:
            token = _lower_and_strip_accents(token)
        spaced = [(part, i) for c, i in token for part in (f" {c} " if _is_punctuation(c) else c)]
        tokens += _split_aligned(spaced)
    return tokens


def _split_aligned(characters: list[AlignedCharacter]) -> list[list[AlignedCharacter]]:
    groups = groupby(characters, key=lambda pair: pair[0].isspace())
    return [list(group) for is_space, group in groups if not is_space]


def _lower_and_strip_accents(token: list[AlignedCharacter]) -> list[AlignedCharacter]:
    lowered = iter("".join(c for c, _ in token).lower())
    # What a sigma becomes depends on its neighbours, but how many characters never does.
    aligned = [(next(lowered), i) for c, i in token for _ in c.lower()]
    decomposed = [(part, i) for c, i in aligned for part in unicodedata.normalize("NFD", c)]
    ordered = chain.from_iterable(
        sorted(group, key=_combining_class) if is_mark else group
        for is_mark, group in groupby(decomposed, key=lambda pair: _combining_class(pair) > 0)
    )
    return [(c, i) for c, i in ordered if unicodedata.category(c) != "Mn"]


def _combining_class(character: AlignedCharacter) -> int:
    """Unicode's canonical order sorts a run of marks by it; 0 is no mark."""
    return unicodedata.combining(character[0])


@cache
def _clean_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return " "
    if character == "\ufffd" or category in ("Cc", "Cf"):
        return ""
    if is_ideograph(character):
        return f" {character} "
    return character


@cache
def _is_punctuation(character: str) -> bool:
    """Every ASCII symbol counts, also `$`, `+` and others that Unicode does not call so."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")
