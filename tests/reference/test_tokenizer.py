"""Ids and offsets equal those of Hugging Face's BertTokenizer, except for known differences.

The known differences are some code points (`DIFFERENCES`) and the final sigma. For these, bert_jax
agrees with Google's `tokenization.py` and uses the Unicode version of the running Python.
"""

import unicodedata
from collections import defaultdict
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from make_tokenizer_goldens import (
    HARD_TEXTS,
    characters_of,
    encode_all,
    open_bert_tokenizer,
    trained_pieces,
)
from transformers import BertTokenizer

from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.data.tokenizers.words import split_whitespace, split_word
from bert_jax.interop.tokenizer_files import read_tokenizer


class Difference(NamedTuple):
    """Code points that both tokenizers treat differently between letters of a word."""

    ours: str
    theirs: str
    lower_case: bool
    codes: str
    """Ranges in hexadecimal, inclusive."""


PUNCTUATION = """61D 9FD A76 C77 C84 1B7D-1B7E 2E43-2E4F 2E52-2E5D 10EAD 10F55-10F59 10F86-10F89
    1144B-1144F 1145A-1145B 1145D 11660-1166C 116B9 1183B 11944-11946 119E2 11A3F-11A46
    11A9A-11A9C 11A9E-11AA2 11C41-11C45 11C70-11C71 11EF7-11EF8 11FFF 12FF1-12FF2 16E97-16E9A
    16FE2 1E95E-1E95F"""
PRIVATE_USE = "E000-F8FF F0000-FFFFD 100000-10FFFD"
# Hugging Face's range of ideographs starts at U+2B920, Google's at U+2B820.
IDEOGRAPHS = "2B820-2B91F"
FORMAT_CHARACTERS = "890-891 8E2 110CD 13430-13438"
ACCENTS = """
    7FD 898-89F 8CA-8E1 9FE AFA-AFF B55 C04 C3C D00 D3B-D3C D81 EBA 180F 1885-1886 1ABF-1ACE
    1DF6-1DFB A82C A8C5 A8FF A9BD 10D24-10D27 10EAB-10EAC 10F46-10F50 10F82-10F85 11070
    11073-11074 110C2 111CF 1123E 1133B 11438-1143F 11442-11444 11446 1145E 1182F-11837
    11839-1183A 1193B-1193C 1193E 11943 119D4-119D7 119DA-119DB 119E0 11A01-11A0A 11A33-11A38
    11A3B-11A3E 11A47 11A51-11A56 11A59-11A5B 11A8A-11A96 11A98-11A99 11C30-11C36 11C38-11C3D
    11C3F 11C92-11CA7 11CAA-11CB0 11CB2-11CB3 11CB5-11CB6 11D31-11D36 11D3A 11D3C-11D3D
    11D3F-11D45 11D47 11D90-11D91 11D95 11D97 11EF3-11EF4 16F4F 16FE4 1CF00-1CF2D 1CF30-1CF46
    1E000-1E006 1E008-1E018 1E01B-1E021 1E023-1E024 1E026-1E02A 1E130-1E136 1E2AE 1E2EC-1E2EF
    1E944-1E94A"""
if unicodedata.unidata_version >= "15":  # of Python 3.12 and newer
    PUNCTUATION += " 11B00-11B09 11F43-11F4F"
    FORMAT_CHARACTERS += " 13439-1343F"
    ACCENTS += """ ECE 10EFD-10EFF 11241 11F00-11F01 11F36-11F3A 11F40 11F42 13440 13447-13455 1E08F
        1E4EC-1E4EF"""
# All other differences come from Unicode versions; 166D, 111C9 and 1734 changed their category.
DIFFERENCES = (
    *(
        difference
        for lower_case in (True, False)
        for difference in (
            Difference("kept", "removed", lower_case, PRIVATE_USE),
            Difference("a word", "kept", lower_case, f"{PUNCTUATION} {IDEOGRAPHS}"),
            Difference("removed", "kept", lower_case, FORMAT_CHARACTERS),
            Difference("kept", "a word", lower_case, "166D" if lower_case else "166D 111C9"),
        )
    ),
    Difference("removed", "a word", True, "111C9"),
    Difference("removed", "kept", True, ACCENTS),
    Difference("kept", "removed", True, "1734"),
    # A newer Unicode version decomposes a vowel sign, and has lower case forms of these letters.
    Difference("changed", "kept", True, "11938"),
    Difference(
        "kept", "changed", True, "1C89 A7CB-A7CC A7CE A7D2 A7D4 A7DA A7DC 10D50-10D65 16EA0-16EB8"
    ),
)
# Combining marks that are kept, but put in canonical order: only our offsets follow each mark.
SORTED_MARKS = {
    chr(code)
    for code in range(0x110000)
    if unicodedata.combining(chr(code)) and unicodedata.category(chr(code)) != "Mn"
}


def expand(codes):
    for part in codes.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


DIFFERENT = {code for difference in DIFFERENCES for code in expand(difference.codes)}


def treatment(words, character):
    """Says how a tokenizer treated a character between xy and zw."""
    for name, expected in (
        ("removed", ["xyzw"]),
        ("kept", [f"xy{character}zw"]),
        ("a word", ["xy", character, "zw"]),
        ("a space", ["xy", "zw"]),
    ):
        if words == expected:
            return name
    return "changed"


@pytest.mark.parametrize("lower_case", [True, False], ids=["uncased", "cased"])
def test_only_the_code_points_of_the_table_differ(lower_case):
    rust = open_bert_tokenizer(SPECIAL_PIECES, lower_case=lower_case).backend_tokenizer
    found = defaultdict(set)
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) == "Cs":
            continue
        text = f"xy{character}zw"
        theirs = rust.pre_tokenizer.pre_tokenize_str(rust.normalizer.normalize_str(text))
        theirs = [word for word, _ in theirs]
        ours = [w for raw in split_whitespace(text) for w in split_word(raw, lower_case=lower_case)]
        if ours != theirs:
            found[treatment(ours, character), treatment(theirs, character)].add(code)
    expected = defaultdict(set)
    for difference in DIFFERENCES:
        if difference.lower_case == lower_case:
            expected[difference[:2]].update(expand(difference.codes))
    assert found == expected


def ours_and_theirs(texts, *, pieces, lower_case):
    tokenizer = WordPiece(pieces=tuple(pieces), lower_case=lower_case)
    ours = [tokenizer.encode_with_offsets(text) for text in texts]
    assert [tokenizer.encode(text) for text in texts] == [encoding.ids for encoding in ours]
    return ours, encode_all(open_bert_tokenizer(pieces, lower_case=lower_case), texts)


def all_characters(texts):
    """Returns a vocabulary with which any difference in cleaning or splitting changes the ids."""
    characters = characters_of(texts)
    return [*SPECIAL_PIECES, *characters, *(f"##{c}" for c in characters)]


@pytest.fixture(scope="session")
def sentences():
    return [s for d in read_documents("embedded:sotu") for s in split_sentences(d.text)]


@pytest.fixture(scope="session")
def published(weights):
    """BERT's uncased English vocabulary (30,522 pieces), opened by bert_jax and transformers."""
    theirs = BertTokenizer.from_pretrained(weights("minilm"), split_special_tokens=True)
    return read_tokenizer(weights("minilm"))[0], theirs


def test_published_vocabulary_on_the_embedded_corpus(published, sentences):
    ours, theirs = published
    assert ours.vocab_size == 30_522 and ours.lower_case
    expected = encode_all(theirs, sentences)
    assert sum(len(ids) for ids, _ in expected) > 2_000_000
    for sentence, encoding in zip(sentences, expected, strict=True):
        assert ours.encode(sentence) == encoding[0], sentence
        assert ours.encode_with_offsets(sentence) == encoding, sentence


def test_cased_vocabulary_on_the_embedded_corpus(sentences):
    pieces = trained_pieces(vocab_size=4000, lower_case=False)
    ours, theirs = ours_and_theirs(sentences, pieces=pieces, lower_case=False)
    assert ours == theirs


def test_published_vocabulary_on_hard_texts(published):
    ours, theirs = published
    for text, encoding in zip(HARD_TEXTS, encode_all(theirs, HARD_TEXTS), strict=True):
        assert ours.encode_with_offsets(text) == encoding, ascii(text)


@pytest.mark.parametrize("lower_case", [True, False], ids=["uncased", "cased"])
def test_hard_texts_with_a_vocabulary_of_their_characters(lower_case):
    pieces = all_characters(HARD_TEXTS)
    ours, theirs = ours_and_theirs(HARD_TEXTS, pieces=pieces, lower_case=lower_case)
    for text, our, their in zip(HARD_TEXTS, ours, theirs, strict=True):
        assert our == their, ascii(text)


# Random Unicode characters, often those that the algorithm treats specially.
texts = st.text(
    st.sampled_from(sorted(set("".join(HARD_TEXTS)))) | st.characters(exclude_categories=["Cs"])
).map(lambda text: "".join(c for c in text if ord(c) not in DIFFERENT and c != "\u03a3"))


@given(text=texts, lower_case=st.booleans())
@example(text="x\U0001d16d\U0001d165y", lower_case=True)
@settings(max_examples=2000, derandomize=True, deadline=None)
def test_random_texts_with_a_vocabulary_of_their_characters(text, lower_case):
    pieces = all_characters([text])
    [ours], [theirs] = ours_and_theirs([text], pieces=pieces, lower_case=lower_case)
    assert ours.ids == theirs[0]
    if not (lower_case and SORTED_MARKS & set(unicodedata.normalize("NFD", text))):
        assert ours == theirs


@given(text=texts)
@settings(max_examples=2000, derandomize=True, deadline=None)
def test_published_vocabulary_on_random_texts(published, text):
    ours, theirs = published
    [(ids, offsets)] = encode_all(theirs, [text])
    assert ours.encode(text) == ids
    if not SORTED_MARKS & set(unicodedata.normalize("NFD", text)):
        assert ours.encode_with_offsets(text) == (ids, offsets)


def test_a_sigma_at_the_end_of_a_word_becomes_a_final_sigma():
    pieces = all_characters(["\u03a3\u03c3\u03c2\u03bf"])
    tokens = []
    for encoding in ours_and_theirs(["\u039f\u03a3 \u03a3\u039f"], pieces=pieces, lower_case=True):
        tokens.append([pieces[i] for i in encoding[0][0]])
    assert tokens == [["ο", "##ς", "σ", "##ο"], ["ο", "##σ", "σ", "##ο"]]


@pytest.mark.parametrize("limit", [100, 200])
def test_the_length_limit_can_be_100_or_200(limit):
    words = [
        " ".join(["a" * n, "\u00e9" * n, "e\u0301" * n]) for n in (99, 100, 101, 199, 200, 201)
    ]
    pieces = (*SPECIAL_PIECES, "a", "##a", "e", "##e")
    theirs = open_bert_tokenizer(pieces, lower_case=True)
    assert theirs.backend_tokenizer.model.max_input_chars_per_word == 100
    theirs.backend_tokenizer.model.max_input_chars_per_word = limit
    ours = WordPiece(pieces=pieces, lower_case=True, max_word_length=limit)
    assert [ours.encode_with_offsets(word) for word in words] == encode_all(theirs, words)


def test_lone_surrogates_are_unknown_though_transformers_refuses_them():
    pieces = (*SPECIAL_PIECES, "a", "##a")
    with pytest.raises(TypeError):
        encode_all(open_bert_tokenizer(pieces, lower_case=True), ["aa\ud800 a"])
    ours = WordPiece(pieces=pieces, lower_case=True)
    assert ours.encode("aa\ud800 a") == [ours.unk_id, ours.pieces.index("a")]


@pytest.mark.parametrize("lower_case", [True, False], ids=["uncased", "cased"])
def test_a_tokenizer_saved_by_transformers_is_read_back(lower_case, tmp_path):
    pieces = trained_pieces(vocab_size=400, lower_case=lower_case)
    open_bert_tokenizer(pieces, lower_case=lower_case).save_pretrained(tmp_path)
    expected = WordPiece(pieces=tuple(pieces), lower_case=lower_case)
    assert read_tokenizer(tmp_path)[0] == expected
