import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from published_tokenization import published_words, texts

from bert_jax.data.tokenizers.words import (
    RecentWords,
    locate_whitespace_split,
    space_ideographs,
    split_aligned_word,
    split_unspaced,
    split_whitespace,
    split_word,
)


def split_words(text: str, *, lower_case: bool) -> list[str]:
    return [t for raw in split_whitespace(text) for t in split_word(raw, lower_case=lower_case)]


@pytest.mark.parametrize(
    ("text", "uncased", "cased"),
    [
        ("", [], []),
        (" \t\n\r\u3000\xa0", [], []),
        ("Hello, World!", ["hello", ",", "world", "!"], ["Hello", ",", "World", "!"]),
        (
            "don't $5.00",
            ["don", "'", "t", "$", "5", ".", "00"],
            ["don", "'", "t", "$", "5", ".", "00"],
        ),
        ("Ünïcodé", ["unicode"], ["Ünïcodé"]),
        ("İstanbul ΟΔΟΣ", ["istanbul", "οδος"], ["İstanbul", "ΟΔΟΣ"]),
        ("e\u0301te", ["ete"], ["e\u0301te"]),
        ("a中文b漢", ["a", "中", "文", "b", "漢"], ["a", "中", "文", "b", "漢"]),
        ("ひらかな", ["ひらかな"], ["ひらかな"]),
        ("a\x0bb\x85c\x1cd\x00e\ufffdf\u200bg\xadh", ["abcdefgh"], ["abcdefgh"]),
        ("a\u2028b", ["a", "b"], ["a", "b"]),
        ("\ue000x", ["\ue000x"], ["\ue000x"]),
        ("ok😀👍", ["ok😀👍"], ["ok😀👍"]),
        ("“no”—«sí»", ["“", "no", "”", "—", "«", "si", "»"], ["“", "no", "”", "—", "«", "sí", "»"]),
        ("[CLS] a", ["[", "cls", "]", "a"], ["[", "CLS", "]", "a"]),
        ("\u0301", [], ["\u0301"]),
        ("\u037e", [";"], ["\u037e"]),
    ],
)
def test_words_of_special_texts(text, uncased, cased):
    assert split_words(text, lower_case=True) == uncased
    assert split_words(text, lower_case=False) == cased


@given(text=texts, lower_case=st.booleans())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_words_of_any_text_equal_the_published_words(text, lower_case):
    assert split_words(text, lower_case=lower_case) == published_words(text, lower_case=lower_case)


def test_words_around_any_character_equal_the_published_words():
    codes = [*range(0x3500), *range(0x3500, 0xD800, 61), *range(0xE000, 0x110000, 251)]
    for text in (f"Xy{chr(code)}Zw" for code in codes):
        assert split_words(text, lower_case=True) == published_words(text, lower_case=True), text


@pytest.mark.parametrize(
    ("lower_case", "strip_accents", "words"),
    [
        (True, None, ["uber", "istanbul", "n"]),
        (True, True, ["uber", "istanbul", "n"]),
        (True, False, ["über", "i̇stanbul", "n\u0303"]),
        (False, None, ["Über", "İstanbul", "N\u0303"]),
        (False, True, ["Uber", "Istanbul", "N"]),
    ],
)
def test_accents_are_removed_with_or_without_lower_casing(lower_case, strip_accents, words):
    choice = {"lower_case": lower_case, "strip_accents": strip_accents}
    text = "Über İstanbul N\u0303"
    assert [w for raw in split_whitespace(text) for w in split_word(raw, **choice)] == words
    aligned = [split_aligned_word(raw, **choice) for raw in text.split()]
    assert ["".join(c for c, _ in token) for (token,) in aligned] == words


@given(text=texts, lower_case=st.booleans())
@example(text="ΟΔΟΣ Σ ΑΣ. ΑΣ\u0301 \u0130Σ\u4e2d", lower_case=True)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_aligned_words_equal_the_words(text, lower_case):
    aligned = [
        "".join(c for c, _ in token)
        for _, word in locate_whitespace_split(text)
        for token in split_aligned_word(word, lower_case=lower_case)
    ]
    assert aligned == split_words(text, lower_case=lower_case)


def test_marks_are_sorted_together_with_their_offsets():
    """Two musical marks that are kept, U+1D16D (class 226) before U+1D165 (class 216)."""
    [token] = split_aligned_word("x\U0001d16d\U0001d165", lower_case=True)
    assert token == [("x", 0), ("\U0001d165", 2), ("\U0001d16d", 1)]
    # Marks are not sorted across a character of class 0, even an accent that is removed.
    [token] = split_aligned_word("x\U0001d16d\u034f\U0001d165", lower_case=True)
    assert token == [("x", 0), ("\U0001d16d", 1), ("\U0001d165", 3)]


def test_recent_words_are_remembered_and_their_number_is_bounded():
    calls = []
    words = RecentWords(lambda word: calls.append(word) or len(word), size=3)
    for word in "a", "b", "a", "c", "a", "d", "a", "bb":
        assert words[word] == len(word)
        assert len(words) <= 3
    assert calls == ["a", "b", "c", "d", "bb"]
    assert [words[f"{i}"] for i in range(9)] == [1] * 9
    assert words["a"] == 1 and calls[-1] == "a"  # forgotten after many other words


def test_a_sentence_without_spaces_is_not_remembered():
    calls = []
    lengths = RecentWords(lambda word: calls.append(word) or len(word))
    for length in (64, 65, 64, 65):
        assert lengths["あ" * length] == length
    assert [len(word) for word in calls] == [64, 65, 65]
    assert len(lengths) == 1


def test_unspaced_scripts_are_split_into_characters():
    assert split_unspaced("abcé") == ["abcé"]
    assert split_unspaced("xカナ中yกๆ한국") == ["x", "カ", "ナ", "中", "y", "ก", "ๆ", "한국"]


def test_spaces_around_ideographs_change_no_word():
    text = "x中文y, 我们。豈\u200d中ÉΣ中\U00020000a\U0002fa1fカナ"
    spaced = space_ideographs(text)
    assert spaced.split()[:4] == ["x", "中", "文", "y,"]
    for lower_case in (True, False):
        found, expected = (split_words(one, lower_case=lower_case) for one in (spaced, text))
        assert found == expected
