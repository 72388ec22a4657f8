import json
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_tokenization import published_pieces, texts

from bert_jax.data.sentences import split_sentences
from bert_jax.data.sources.corpora import read_documents
from bert_jax.data.tokenizers.train_wordpiece import count_words, train_wordpiece
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.data.tokenizers.words import split_whitespace, split_word

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "tokenizer.json").read_text())
"""Ids and offsets of transformers, written by tests/reference/make_tokenizer_goldens.py."""


def make_tokenizer(*pieces: str, **fields) -> WordPiece:
    return WordPiece(pieces=(*SPECIAL_PIECES, *pieces), **{"lower_case": True, **fields})


def split_words(text: str, *, lower_case: bool) -> list[str]:
    return [t for raw in split_whitespace(text) for t in split_word(raw, lower_case=lower_case)]


def tokenize(tokenizer: WordPiece, text: str) -> list[str]:
    return [tokenizer.pieces[i] for i in tokenizer.encode(text)]


@pytest.fixture(scope="module")
def sentences():
    documents = list(read_documents("embedded:sotu"))
    return [s for d in documents[::40] for s in split_sentences(d.text)]


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def trained(request, sentences):
    counts = count_words(sentences, lower_case=request.param)
    return train_wordpiece(counts, vocab_size=1000, lower_case=request.param)


@given(text=texts)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_pieces_of_any_text_equal_the_published_pieces(text):
    tokenizer = make_tokenizer("a", "##a", "ab", "##b", "7", ".", "#", "中", "##😀", "s", "##σ")
    assert tokenize(tokenizer, text) == published_pieces(text, tokenizer)


def test_pieces_of_real_sentences_equal_the_published_pieces(trained, sentences):
    for sentence in sentences[::50]:
        assert tokenize(trained, sentence) == published_pieces(sentence, trained)


def test_the_longest_piece_wins_and_other_words_are_unknown():
    tokenizer = make_tokenizer("want", "##want", "##ed", "wa", "un", "runn", "##ing", ",")
    assert tokenize(tokenizer, "UNwant\u00e9d,running") == [
        "un",
        "##want",
        "##ed",
        ",",
        "runn",
        "##ing",
    ]
    assert tokenize(tokenizer, "wanted wantex") == ["want", "##ed", "[UNK]"]


@pytest.mark.parametrize("limit", [100, 200])
def test_words_longer_than_the_limit_are_unknown(limit):
    tokenizer = make_tokenizer("a", "##a", max_word_length=limit)
    assert tokenizer.unk_id not in tokenizer.encode("a" * limit)
    assert tokenizer.encode("a" * (limit + 1)) == [tokenizer.unk_id]


def test_special_pieces_spelled_out_are_text():
    tokenizer = make_tokenizer("[", "]", "cls", "mask")
    assert tokenize(tokenizer, "[CLS][MASK]") == ["[", "cls", "]", "[", "mask", "]"]
    cased = make_tokenizer("[", "]", "CLS", lower_case=False)
    assert tokenize(cased, "[CLS]") == ["[", "CLS", "]"]


def test_special_ids_are_looked_up_by_name():
    pieces = ("[MASK]", "x", "[SEP]", "[UNK]", "##x", "[PAD]", "[CLS]")
    tokenizer = WordPiece(pieces=pieces, lower_case=True)
    ids = [getattr(tokenizer, f"{name}_id") for name in ("pad", "unk", "cls", "sep", "mask")]
    assert [pieces[i] for i in ids] == list(SPECIAL_PIECES)
    assert tokenizer.vocab_size == 7


def test_the_last_of_equal_lines_of_a_vocabulary_counts(tmp_path):
    """As in the code of Google and Hugging Face. A blank line is an id that no text gets."""
    lines = [*SPECIAL_PIECES, "a", "##b", "", "a", "c", "", "##b"]
    for name, content in (
        ("unix", "\n".join(lines)),
        ("windows", "\r\n".join([*lines, ""])),
        ("mark", "\ufeff" + "\n".join([*lines, ""])),  # the byte order mark of a Windows editor
    ):
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        tokenizer = WordPiece.from_vocabulary_file(tmp_path / name, lower_case=True)
        assert tokenizer.vocab_size == len(lines)
        assert tokenizer.encode("ab c a") == [8, 11, 9, 8]
        assert WordPiece(pieces=tokenizer.pieces, lower_case=True) == tokenizer


def test_decoding_returns_the_words(trained, sentences):
    known = [s for s in sentences if trained.unk_id not in trained.encode(s)]
    assert len(known) > 0.95 * len(sentences)
    for sentence in known:
        words = split_words(sentence, lower_case=trained.lower_case)
        assert trained.decode(trained.encode(sentence)) == " ".join(words)


def test_pickled_tokenizer_carries_no_cache(trained, sentences):
    expected = [trained.encode(s) for s in sentences[:200]]
    packed = pickle.dumps(trained)
    assert len(packed) < 20 * trained.vocab_size
    copy = pickle.loads(packed)
    assert copy == trained
    assert [copy.encode(s) for s in sentences[:200]] == expected


@pytest.mark.parametrize("case", ["uncased", "cased"])
def test_hard_texts_give_the_ids_and_offsets_of_huggingface(case):
    golden = GOLDENS[case]
    tokenizer = WordPiece(pieces=tuple(golden["pieces"]), lower_case=golden["lower_case"])
    assert len(golden["texts"]) > 30
    for expected in golden["texts"]:
        text, ids = expected["text"], expected["ids"]
        offsets = [tuple(offset) for offset in expected["offsets"]]
        assert tokenizer.encode(text) == ids, ascii(text)
        assert tokenizer.encode_with_offsets(text) == (ids, offsets), ascii(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  a\tab ", [("a", 2, 3), ("ab", 4, 6)]),
        ("aba.", [("ab", 0, 2), ("##a", 2, 3), (".", 3, 4)]),
        # Composed and combining accents; a letter that is longer in NFD.
        ("\u00e1b a\u0301b\u0301", [("ab", 0, 2), ("ab", 3, 6)]),
        ("\u0301\u0130", [("i", 1, 2)]),
        # Removed characters at both ends of a word and between two pieces.
        ("\x00ab\x00\u200ba\ufffd x", [("ab", 1, 3), ("##a", 5, 6), ("[UNK]", 8, 9)]),
        ("a\x85 \x1c", [("a", 0, 1)]),
        # CJK; a Hangul syllable decomposes into three letters: three pieces of one character.
        ("a\u4e2da", [("a", 0, 1), ("\u4e2d", 1, 2), ("a", 2, 3)]),
        ("\ud55c", [("\u1112", 0, 1), ("##\u1161", 0, 1), ("##\u11ab", 0, 1)]),
        # Unknown and too long words, some with removed characters.
        ("a aq\u0301\x00q. a", [("a", 0, 1), ("[UNK]", 2, 7), (".", 7, 8), ("a", 9, 10)]),
        ("a" * 101, [("[UNK]", 0, 101)]),
        ("\ud800 a", [("[UNK]", 0, 1), ("a", 2, 3)]),
        ("a\U0001f600 a", [("[UNK]", 0, 2), ("a", 3, 4)]),
    ],
)
def test_offsets_of_special_texts(text, expected):
    pieces = ("a", "##a", "ab", "##b", ".", "i", "\u4e2d", "\u1112", "##\u1161", "##\u11ab")
    tokenizer = make_tokenizer(*pieces)
    encoding = tokenizer.encode_with_offsets(text)
    assert [(tokenizer.pieces[i], *o) for i, o in zip(*encoding, strict=True)] == expected


@given(text=texts, lower_case=st.booleans(), longest=st.integers(1, 3))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_the_text_between_the_offsets_gives_the_piece(text, lower_case, longest):
    """The vocabulary contains every character of the text and some pieces of several letters."""
    words = split_words(text, lower_case=lower_case)
    parts = {w[i : i + n] for w in words for n in range(1, longest + 1) for i in range(len(w))}
    tokenizer = make_tokenizer(
        *sorted(parts), *sorted(f"##{part}" for part in parts), lower_case=lower_case
    )
    encoding = tokenizer.encode_with_offsets(text)
    assert encoding.ids == tokenizer.encode(text)
    assert len(encoding.offsets) == len(encoding.ids)
    covered = set()
    for i, (start, end) in zip(*encoding, strict=True):
        assert 0 <= start < end <= len(text)
        covered.update(range(start, end))
        cleaned = "".join(split_words(text[start:end], lower_case=lower_case))
        piece = tokenizer.pieces[i].removeprefix("##")
        # A single sigma is not final. A character that gives several pieces contains each of them.
        assert piece.replace("ς", "σ") in cleaned.replace("ς", "σ")
        if unicodedata.normalize("NFD", text[start:end]) == text[start:end]:
            assert len(piece) == len(cleaned)
    for left_out in set(range(len(text))) - covered:
        vanishes = split_words(f"a{text[left_out]}a", lower_case=lower_case) == ["aa"]
        assert vanishes or text[left_out].isspace()


@given(text=texts)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_ids_are_the_same_with_and_without_offsets(text):
    tokenizer = make_tokenizer("a", "##a", "ab", "##b", "7", ".", "#", "中", "##😀", "s", "##σ")
    assert tokenizer.encode_with_offsets(text).ids == tokenizer.encode(text)
