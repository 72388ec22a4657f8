import json
import os

import pytest

from bert_jax.data.tokenizers.files import (
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
)
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.errors import DataError


def make_tokenizer(*pieces: str, **fields) -> WordPiece:
    return WordPiece(pieces=(*SPECIAL_PIECES, *pieces), **{"lower_case": True, **fields})


@pytest.mark.parametrize("lower_case", [True, False])
def test_saved_tokenizer_is_the_same_when_loaded(lower_case, tmp_path):
    trained = make_tokenizer("é", "##\u2028", "A", lower_case=lower_case)
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


def test_accents_that_follow_lower_casing_leave_no_trace():
    """Tokenizers of earlier data keep their fingerprints."""
    plain = make_tokenizer("a", "ä")
    assert "strip_accents" not in plain.to_json()
    assert make_tokenizer("a", "ä", strip_accents=True) == plain
    kept = make_tokenizer("a", "ä", strip_accents=False)
    assert (plain.encode("Ä"), kept.encode("Ä")) == ([5], [6])
    assert kept.encode_with_offsets("Ä").ids == [6]
    assert kept.fingerprint() != plain.fingerprint()
    assert tokenizer_from_json(kept.to_json()) == kept
    with pytest.raises(DataError, match="tokenizer: strip_accents is str; accepted: bool"):
        tokenizer_from_json(kept.to_json() | {"strip_accents": "no"})


def test_a_byte_order_mark_is_no_part_of_the_first_piece(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, "a"]), encoding="utf-8-sig")
    found = WordPiece.from_vocabulary_file(tmp_path / "vocab.txt", lower_case=True)
    assert found.pieces == (*SPECIAL_PIECES, "a")


def test_fingerprint_depends_on_every_field():
    variants = [
        make_tokenizer("a", "b"),
        make_tokenizer("b", "a"),
        make_tokenizer("a", "b", lower_case=False),
        make_tokenizer("a", "b", max_word_length=200),
    ]
    assert len({v.fingerprint() for v in variants}) == len(variants)
    assert tokenizer_from_json(variants[0].to_json()).fingerprint() == variants[0].fingerprint()


def test_missing_or_repeated_pieces_are_refused():
    with pytest.raises(DataError, match=r"lacks \[CLS\], \[MASK\]"):
        WordPiece(pieces=("[PAD]", "[UNK]", "[SEP]", "a"), lower_case=True)
    with pytest.raises(DataError, match=r"'a' at ids 5 and 7"):
        make_tokenizer("a", "b", "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version is 2; accepted: 1"),
        ({"kind": "unigram"}, "kind is 'unigram'; accepted: wordpiece, sentencepiece, huggingface"),
        ({"lower_case": "no"}, "lower_case is str; accepted: bool"),
        ({"pieces": [*SPECIAL_PIECES, 7]}, r"pieces\[5\] is int; accepted: str"),
        ({"dropout": 0.1}, "has the unknown field dropout"),
    ],
)
def test_malformed_description_is_refused(tmp_path, change, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(make_tokenizer("a").to_json() | change))
    with pytest.raises(DataError, match=rf"tokenizer\.json: .*{message}") as error:
        load_tokenizer(path)
    assert "\n" not in str(error.value)


def test_the_error_names_an_unreadable_file(tmp_path):
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
