import json
import os

import pytest

from bert_jax.data.tokenizers import (
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
    wordpiece_from_huggingface,
)
from bert_jax.data.wordpiece import SPECIAL_PIECES, WordPiece
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


HUGGINGFACE_CONFIG = {
    "do_lower_case": False,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "tokenizer_class": "BertTokenizer",
    "unk_token": "[UNK]",
    "mask_token": {"__type": "AddedToken", "content": "[MASK]", "lstrip": False},
    "added_tokens_decoder": {"1": {"content": "[UNK]", "special": True}},
    "model_max_length": 512,
}


def huggingface_description(*pieces: str) -> dict:
    """`tokenizer.json` as transformers 5.23 writes it, less what the text is wrapped in."""
    return {
        "added_tokens": [{"id": 4, "content": "[MASK]", "special": True}],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 200,
            "vocab": {piece: i for i, piece in enumerate((*SPECIAL_PIECES, *pieces))},
        },
    }


def write_huggingface(directory, *, config=HUGGINGFACE_CONFIG, description=None, pieces=()):
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if description is not None:
        (directory / "tokenizer.json").write_text(json.dumps(description))
    if pieces:
        (directory / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, *pieces]))


def test_directory_of_huggingface_with_a_vocabulary_file(tmp_path):
    write_huggingface(tmp_path, pieces=("x", "y"))
    expected = make_tokenizer("x", "y", lower_case=False, max_word_length=100)
    assert wordpiece_from_huggingface(tmp_path) == expected


def test_directory_of_huggingface_with_everything_in_one_file(tmp_path):
    """Which counts, as in transformers, also where there is a `vocab.txt`."""
    description = huggingface_description("x", "y")
    description["model"]["vocab"] = dict(reversed(description["model"]["vocab"].items()))
    write_huggingface(tmp_path, config=None, description=description, pieces=("old",))
    expected = make_tokenizer("x", "y", lower_case=False, max_word_length=200)
    assert wordpiece_from_huggingface(tmp_path) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_lower_case": None}, "do_lower_case is None; accepted: true or false"),
        ({"do_lower_case": "no"}, "do_lower_case is 'no'; accepted: true or false"),
        ({"strip_accents": True}, "strip_accents is true; accepted: null or false"),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars is false; accepted: null or"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is false; accepted: null or true"),
        ({"never_split": ["x"]}, r'never_split is \["x"\]; accepted: null or \[\]'),
        (
            {"tokenizer_class": "BertJapaneseTokenizer"},
            'tokenizer_class is "BertJapaneseTokenizer"',
        ),
        ({"mask_token": {"content": "<mask>"}}, r'mask_token is "<mask>"; accepted: null or "\[M'),
        (
            {"added_tokens_decoder": {"7": {"content": "z", "special": True}}},
            "added token 'z' has id 7; accepted: special pieces of the vocabulary, which has 7",
        ),
        (
            {"added_tokens_decoder": {"5": {"content": "x", "special": False}}},
            "added token 'x' has id 5; accepted: special pieces",
        ),
    ],
)
def test_settings_of_huggingface_that_are_not_followed_are_refused(tmp_path, change, message):
    write_huggingface(tmp_path, config=HUGGINGFACE_CONFIG | change, pieces=("x", "y"))
    with pytest.raises(DataError, match=rf"tokenizer_config\.json: {message}") as error:
        wordpiece_from_huggingface(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("normalizer.lowercase", True, "normalizer.lowercase is true; accepted: false"),
        ("normalizer.strip_accents", True, "strip_accents is true; accepted: null or false"),
        ("normalizer.clean_text", False, "clean_text is false; accepted: true"),
        ("normalizer.handle_chinese_chars", False, "handle_chinese_chars is false"),
        ("normalizer.type", "Lowercase", 'normalizer.type is "Lowercase"'),
        ("normalizer", None, "normalizer.type is null"),
        ("pre_tokenizer.type", "Whitespace", 'pre_tokenizer.type is "Whitespace"'),
        ("model.type", "BPE", 'model.type is "BPE"; accepted: "WordPiece"'),
        ("model.unk_token", "<unk>", 'model.unk_token is "<unk>"'),
        ("model.continuing_subword_prefix", "", 'continuing_subword_prefix is ""'),
        ("model.max_input_chars_per_word", "all", "max_input_chars_per_word is 'all'"),
        ("model.vocab", ["x"], "model.vocab is no table of ids"),
        ("model.vocab", {"x": "0"}, "model.vocab is no table of ids"),
        ("model.vocab", {"x": 1}, "model.vocab skips or repeats ids"),
        ("model.vocab", {"x": 0}, r"vocabulary of 1 pieces lacks \[PAD\]"),
        ("added_tokens", [{"id": 6, "content": "x"}], "added token 'x' has id 6"),
    ],
)
def test_files_of_huggingface_that_are_not_followed_are_refused(tmp_path, field, value, message):
    description = huggingface_description("x")
    *parents, name = field.split(".")
    parent = description
    for key in parents:
        parent = parent[key]
    parent[name] = value
    write_huggingface(tmp_path, description=description)
    with pytest.raises(DataError, match=rf"tokenizer\.json: .*{message}") as error:
        wordpiece_from_huggingface(tmp_path)
    assert "\n" not in str(error.value)


def test_directory_of_huggingface_without_a_tokenizer_is_refused(tmp_path):
    write_huggingface(tmp_path)
    with pytest.raises(DataError, match=r"vocab\.txt cannot be read"):
        wordpiece_from_huggingface(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json:1 is not JSON"):
        wordpiece_from_huggingface(tmp_path)
