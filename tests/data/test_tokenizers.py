import json
import os
import pickle
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.data.corpora import read_documents, split_sentences
from bert_jax.data.tokenizers import load_tokenizer, save_tokenizer, tokenizer_from_json
from bert_jax.data.vocabulary import count_words, train_wordpiece
from bert_jax.data.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.data.words import split_whitespace, split_word
from bert_jax.errors import DataError

# Letters of many kinds, and every sort of character that the algorithm treats specially.
ODD_CHARACTERS = (
    "aAbB7éÉßẞİıΣσς.,$+^`#[]_ \t\n\r\x00\x0b\x0c\x1c\x1f\x7f\x85\xa0\xad\ufffd\ufeff"
    + (
        "\u0301\u0345\u037e\u1fef\u2000\u200b\u200d\u2028\u2029\u202f\u3000。、！—“’«¿中文漢한국あカ"
        "\u4dff\ua000\uf900\U0002b81f\U0002b820\U0002ceaf\U0002ceb0\U0002f800\ue000😀👍🏽अनि\u0378"
    )
)
texts = st.text(st.sampled_from(ODD_CHARACTERS) | st.characters(exclude_categories=["Cs"]))


def make_tokenizer(*pieces: str, **fields) -> WordPiece:
    return WordPiece(pieces=(*SPECIAL_PIECES, *pieces), **{"lower_case": True, **fields})


def tokenize(tokenizer: WordPiece, text: str) -> list[str]:
    return [tokenizer.pieces[i] for i in tokenizer.encode(text)]


def split_words(text: str, *, lower_case: bool) -> list[str]:
    return [t for raw in split_whitespace(text) for t in split_word(raw, lower_case=lower_case)]


def published_words(text: str, *, lower_case: bool) -> list[str]:
    """BERT's basic tokenization, character by character in the published order of steps."""
    clean = ""
    for c in text:
        code, category = ord(c), unicodedata.category(c)
        if c in "\t\n\r" or category == "Zs":
            clean += " "
        elif code in (0, 0xFFFD) or category in ("Cc", "Cf"):
            continue
        elif (
            0x4E00 <= code <= 0x9FFF
            or 0x3400 <= code <= 0x4DBF
            or 0x20000 <= code <= 0x2A6DF
            or 0x2A700 <= code <= 0x2B73F
            or 0x2B740 <= code <= 0x2B81F
            or 0x2B820 <= code <= 0x2CEAF
            or 0xF900 <= code <= 0xFAFF
            or 0x2F800 <= code <= 0x2FA1F
        ):
            clean += " " + c + " "
        else:
            clean += c
    split = []
    for token in clean.split():
        if lower_case:
            token = unicodedata.normalize("NFD", token.lower())
            token = "".join(c for c in token if unicodedata.category(c) != "Mn")
        new_word = True
        for c in token:
            code = ord(c)
            ascii_symbol = (
                33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
            )
            if ascii_symbol or unicodedata.category(c)[0] == "P":
                split.append(c)
                new_word = True
            elif new_word:
                split.append(c)
                new_word = False
            else:
                split[-1] += c
    return " ".join(split).split()


def published_pieces(text: str, tokenizer: WordPiece) -> list[str]:
    output = []
    for word in published_words(text, lower_case=tokenizer.lower_case):
        if len(word) > tokenizer.max_word_length:
            output.append("[UNK]")
            continue
        start, found = 0, []
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in tokenizer.pieces:
                    break
            else:
                found = ["[UNK]"]
                break
            found.append(piece)
            start = end
        output += found
    return output


@pytest.fixture(scope="module")
def sentences():
    documents = list(read_documents("embedded:sotu"))
    return [s for d in documents[::40] for s in split_sentences(d.text)]


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def trained(request, sentences):
    counts = count_words(sentences, lower_case=request.param)
    return train_wordpiece(counts, vocab_size=1000, lower_case=request.param)


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
def test_words_of_any_text_are_the_published_ones(text, lower_case):
    assert split_words(text, lower_case=lower_case) == published_words(text, lower_case=lower_case)


def test_words_around_every_kind_of_character_are_the_published_ones():
    codes = [*range(0x3500), *range(0x3500, 0xD800, 61), *range(0xE000, 0x110000, 251)]
    for text in (f"Xy{chr(code)}Zw" for code in codes):
        assert split_words(text, lower_case=True) == published_words(text, lower_case=True), text


@given(text=texts)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_pieces_of_any_text_are_the_published_ones(text):
    tokenizer = make_tokenizer("a", "##a", "ab", "##b", "7", ".", "#", "中", "##😀", "s", "##σ")
    assert tokenize(tokenizer, text) == published_pieces(text, tokenizer)


def test_pieces_of_real_sentences_are_the_published_ones(trained, sentences):
    for sentence in sentences[::50]:
        assert tokenize(trained, sentence) == published_pieces(sentence, trained)


def test_longest_piece_wins_and_a_word_without_a_cover_is_unknown():
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


def test_decoding_gives_the_words_back(trained, sentences):
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


def test_saved_tokenizer_is_the_same_when_loaded(trained, tmp_path):
    save_tokenizer(trained, tmp_path / "new")
    assert load_tokenizer(tmp_path / "new") == trained
    loaded = load_tokenizer(tmp_path / "new" / "tokenizer.json")
    assert loaded.fingerprint() == trained.fingerprint()
    from_vocabulary = WordPiece.from_vocabulary_file(
        tmp_path / "new" / "vocab.txt", lower_case=trained.lower_case
    )
    assert from_vocabulary == trained
    assert sorted(os.listdir(tmp_path / "new")) == ["tokenizer.json", "vocab.txt"]


def test_vocabulary_file_with_windows_line_ends(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*SPECIAL_PIECES, "é"]).encode())
    assert WordPiece.from_vocabulary_file(path, lower_case=False).pieces == (*SPECIAL_PIECES, "é")


def test_fingerprint_depends_on_every_field():
    variants = [
        make_tokenizer("a", "b"),
        make_tokenizer("b", "a"),
        make_tokenizer("a", "b", lower_case=False),
        make_tokenizer("a", "b", max_word_length=200),
    ]
    assert len({v.fingerprint() for v in variants}) == len(variants)
    assert tokenizer_from_json(variants[0].to_json()).fingerprint() == variants[0].fingerprint()


def test_missing_or_repeated_pieces_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"lacks \[CLS\], \[MASK\]"):
        WordPiece(pieces=("[PAD]", "[UNK]", "[SEP]", "a"), lower_case=True)
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_PIECES, "a", "b", "a"]))
    with pytest.raises(DataError, match=r"vocab\.txt: .*'a' at ids 5 and 7"):
        WordPiece.from_vocabulary_file(path, lower_case=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version is 2; accepted: 1"),
        ({"kind": "unigram"}, "kind is 'unigram'; accepted: 'wordpiece'"),
        ({"lower_case": "no"}, "lower_case is a str; accepted: a bool"),
        ({"pieces": [*SPECIAL_PIECES, 7]}, r"pieces\[5\] is 7; accepted: a string"),
        ({"dropout": 0.1}, "has fields .*dropout"),
    ],
)
def test_malformed_description_is_refused(tmp_path, change, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(make_tokenizer("a").to_json() | change))
    with pytest.raises(DataError, match=rf"tokenizer\.json: .*{message}") as error:
        load_tokenizer(path)
    assert "\n" not in str(error.value)


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"a":\n!}')
    with pytest.raises(DataError, match=r"tokenizer\.json:2 is not JSON"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("[]")
    with pytest.raises(DataError, match="holds a list; accepted: a JSON object"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"ok\n\xff")
    with pytest.raises(DataError, match=r"vocab\.txt is not UTF-8 at byte 3"):
        WordPiece.from_vocabulary_file(tmp_path / "vocab.txt", lower_case=True)
