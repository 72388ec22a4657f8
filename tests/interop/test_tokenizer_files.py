"""Hugging Face's tokenizer files are read, or refused if they ask for another tokenizer."""

import json

import pytest

from bert_jax.data.tokenizers.huggingface import HuggingFace
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.errors import DataError
from bert_jax.interop.tokenizer_files import read_tokenizer, tokenizer_json, write_tokenizer


def make_tokenizer(*pieces: str, **fields) -> WordPiece:
    return WordPiece(pieces=(*SPECIAL_PIECES, *pieces), **{"lower_case": True, **fields})


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


ADDED = {"id": 6, "content": "new", "special": False, "normalized": False}
ADDED |= dict.fromkeys(("single_word", "lstrip", "rstrip"), False)


def huggingface_description(*pieces: str) -> dict:
    """`tokenizer.json` as transformers 5.23 writes it, without the post-processor and decoder."""
    return {
        "added_tokens": [ADDED | {"id": 4, "content": "[MASK]", "special": True}],
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


def test_huggingface_directory_with_vocab_txt(tmp_path):
    write_huggingface(tmp_path, pieces=("x", "y"))
    expected = make_tokenizer("x", "y", lower_case=False, max_word_length=100)
    assert read_tokenizer(tmp_path)[0] == expected


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_the_class_for_any_tokenizer_json_may_have_berts(name, tmp_path):
    """As the library writes a WordPiece of one's own; transformers 5 has renamed the class."""
    config = {"tokenizer_class": name, "unk_token": "[UNK]"}
    write_huggingface(tmp_path, config=config, description=huggingface_description("x"))
    expected = make_tokenizer("x", lower_case=False, max_word_length=200)
    assert read_tokenizer(tmp_path)[0] == expected


def test_huggingface_directory_with_tokenizer_json(tmp_path):
    """`tokenizer.json` takes precedence over `vocab.txt`, as in transformers."""
    description = huggingface_description("x", "y")
    description["model"]["vocab"] = dict(reversed(description["model"]["vocab"].items()))
    write_huggingface(tmp_path, config=None, description=description, pieces=("old",))
    expected = make_tokenizer("x", "y", lower_case=False, max_word_length=200)
    assert read_tokenizer(tmp_path)[0] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_lower_case": "no"}, "do_lower_case is 'no'; accepted: true or false"),
        ({"strip_accents": "no"}, 'strip_accents is "no"; accepted: null or true or false'),
        ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars is false; accepted: null or"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is false; accepted: null or true"),
        ({"never_split": ["x"]}, r'never_split is \["x"\]; accepted: null or \[\]'),
        (
            {"tokenizer_class": "BertJapaneseTokenizer"},
            'tokenizer_class is "BertJapaneseTokenizer"',
        ),
        ({"mask_token": {"content": "<mask>"}}, r'mask_token is "<mask>"; accepted: null or "\[M'),
    ],
)
def test_unsupported_settings_in_tokenizer_config_are_refused(tmp_path, change, message):
    write_huggingface(tmp_path, config=HUGGINGFACE_CONFIG | change, pieces=("x", "y"))
    with pytest.raises(DataError, match=rf"tokenizer_config\.json: {message}") as error:
        read_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("normalizer.lowercase", True, "normalizer.lowercase is true; accepted: false"),
        ("normalizer.strip_accents", "no", 'strip_accents is "no"; accepted: null or false'),
        ("model.type", "BPE", "a tokenizer.json cannot be read"),
        ("model.unk_token", "<unk>", r"model.unk_token is '<unk>'; accepted: '\[UNK\]'"),
        ("model.max_input_chars_per_word", "all", "max_input_chars_per_word is str; accepted: int"),
        ("model.vocab", ["x"], "model.vocab is array; accepted: object"),
        ("model.vocab", {"x": "0"}, "model.vocab.* is str; accepted: int"),
        ("model.vocab", {"x": 1}, "model.vocab skips or repeats ids"),
        ("model.vocab", {"x": 0}, r"vocabulary of 1 pieces lacks \[PAD\]"),
        ("added_tokens", [{"id": 6, "content": "x"}], "a tokenizer.json cannot be read"),
        ("added_tokens", [{"id": "6", "content": "x"}], "id is str; accepted: int"),
        ("added_tokens", [{**ADDED, "id": 9}], "added token 'new' has id 9; accepted: 6, the next"),
    ],
)
def test_unsupported_settings_in_tokenizer_json_are_refused(tmp_path, field, value, message):
    description = huggingface_description("x")
    *parents, name = field.split(".")
    parent = description
    for key in parents:
        parent = parent[key]
    parent[name] = value
    write_huggingface(tmp_path, description=description)
    with pytest.raises(DataError, match=rf"tokenizer\.json: .*{message}") as error:
        read_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("normalizer.clean_text", False),
        ("normalizer.handle_chinese_chars", False),
        ("normalizer", None),
        ("pre_tokenizer.type", "Whitespace"),
        ("model.continuing_subword_prefix", ""),
        ("added_tokens", [ADDED]),
    ],
)
def test_a_tokenizer_json_other_than_berts_is_run_by_its_library(tmp_path, field, value):
    description = huggingface_description("x")
    parent, _, name = f"root.{field}".rpartition(".")
    place = {"root": description, "root.normalizer": description["normalizer"]}
    place |= {f"root.{name}": description[name] for name in ("pre_tokenizer", "model")}
    place[parent][name] = value
    write_huggingface(tmp_path, config=None, description=description)
    tokenizer, casing = read_tokenizer(tmp_path)
    assert isinstance(tokenizer, HuggingFace) and casing.startswith("lower_case False, as the")
    assert tokenizer.decode(tokenizer.encode("x")) == "x"
    if field == "added_tokens":
        assert tokenizer.encode("x new x") == [5, 6, 5]
    with pytest.raises(DataError, match="lower_case is True; accepted: as the file says"):
        read_tokenizer(tmp_path, lower_case=True)


@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"covid": 7, "[E1]": 8}},
        {"added_tokens.json": {"covid": 7, "[E1]": 8, "[MASK]": 4}},
        {"tokenizer_config.json": {"added_tokens_decoder": {"7": {"content": "covid"}, "8": "E1"}}},
        {
            "added_tokens.json": {"covid": 7, "[E1]": 8},
            "special_tokens_map.json": {
                "unk_token": "[UNK]",
                "additional_special_tokens": ["[E1]", {"content": "w"}],
            },
        },
    ],
)
def test_added_tokens_are_followed(tmp_path, files):
    """As transformers does it: the pieces of covid and [E1] are never split."""
    write_huggingface(tmp_path, config=None, pieces=("x", "w"))
    for name, content in files.items():
        text = json.dumps(content).replace('"E1"', '{"content": "[E1]"}')
        (tmp_path / name).write_text(text)
    tokenizer, _ = read_tokenizer(tmp_path)
    assert tokenizer.encode("x covid [E1] [MASK] w") == [5, 7, 8, 1, 1, 1, 6]
    assert tokenizer.vocab_size == 9


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "added_tokens.json",
            {"new": 3},
            "token 'new' has id 3; accepted: the id of the same",
        ),
        ("added_tokens.json", {"x": 8}, "added token 'x' has id 8; accepted"),
        ("added_tokens.json", {"new": 8}, "added token 'new' has id 8; accepted: 7, the next id"),
        ("added_tokens.json", {"new": "7"}, "is str; accepted: int"),
        ("special_tokens_map.json", {"mask_token": "<mask>"}, 'mask_token is "<mask>"; accepted'),
        (
            "special_tokens_map.json",
            {"additional_special_tokens": ["E1"]},
            "'E1' has id None",
        ),
    ],
)
def test_added_tokens_that_cannot_be_followed_are_refused(tmp_path, name, content, says):
    write_huggingface(tmp_path, config=None, pieces=("x", "w"))
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=says) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_accents_are_followed_and_written(tmp_path, lower_case, strip_accents):
    """`tokenizer_config.json` and `tokenizer.json` say the same, as `write_huggingface` writes."""
    expected = make_tokenizer("ä", lower_case=lower_case, strip_accents=strip_accents)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(expected)))
    for config in ({}, {"do_lower_case": lower_case, "strip_accents": strip_accents}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert read_tokenizer(tmp_path)[0] == expected
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(expected.pieces))
    assert read_tokenizer(tmp_path)[0] == expected


@pytest.mark.parametrize("segments", [True, False])
def test_a_modern_encoder_gets_no_segments_from_its_tokenizer(tmp_path, segments):
    write_tokenizer(tmp_path, make_tokenizer("x"), max_positions=8, segments=segments)
    given = json.loads((tmp_path / "tokenizer_config.json").read_text())["model_input_names"]
    assert ("token_type_ids" in given) == segments and {"input_ids", "attention_mask"} <= {*given}


def test_the_two_files_must_agree_about_accents(tmp_path):
    description = huggingface_description("x")
    description["normalizer"]["strip_accents"] = False
    config = HUGGINGFACE_CONFIG | {"strip_accents": True}
    write_huggingface(tmp_path, config=config, description=description)
    with pytest.raises(DataError, match="strip_accents is false; accepted: null or true"):
        read_tokenizer(tmp_path)


def test_huggingface_directory_without_a_tokenizer_is_refused(tmp_path):
    write_huggingface(tmp_path)
    with pytest.raises(DataError, match=r"vocab\.txt cannot be read"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json:1 is not JSON"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(("piece", "lower_case"), [("a", True), ("A", False)])
def test_without_a_setting_lower_case_is_inferred_from_the_vocabulary(tmp_path, piece, lower_case):
    write_huggingface(tmp_path, config=None, pieces=(piece,))
    assert read_tokenizer(tmp_path)[0].lower_case == lower_case
    write_huggingface(tmp_path, config={"do_lower_case": not lower_case}, pieces=(piece,))
    assert read_tokenizer(tmp_path)[0].lower_case != lower_case
