"""A config and a vocabulary from elsewhere: read as they are meant, or refused in one line."""

import json

import pytest
from layouts import CONFIG, PIECES, write_directory

from bert_jax.errors import CheckpointError
from bert_jax.interop.huggingface import read_tokenizer
from bert_jax.interop.source import config_json, read_config
from bert_jax.models.config import BertConfig
from bert_jax.runs import load_run


def write_config(tmp_path, **changes):
    values = {name: value for name, value in (CONFIG | changes).items() if value is not ...}
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path / "config.json"


def test_the_fields_of_a_config(tmp_path):
    config = read_config(
        write_config(tmp_path, hidden_dropout_prob=0.2, layer_norm_eps=1e-7, initializer_range=0.5)
    )
    assert config == BertConfig(
        vocab_size=13,
        hidden_size=6,
        num_layers=2,
        num_heads=2,
        intermediate_size=10,
        max_positions=9,
        num_segments=3,
        dropout=0.2,
        attention_dropout=0.1,
        activation="gelu_erf",
        layer_norm_epsilon=1e-7,
        initializer_stddev=0.5,
    )
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("act", "activation"),
    [("gelu", "gelu_erf"), ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh")],
)
def test_each_form_of_gelu(act, activation, tmp_path):
    assert read_config(write_config(tmp_path, hidden_act=act)).activation == activation


def test_a_config_of_before_model_types_is_a_bert(tmp_path):
    older = write_config(tmp_path, model_type=..., architectures=..., layer_norm_eps=...)
    assert read_config(older).layer_norm_epsilon == 1e-12


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'; accepted: 'bert'"),
        ({"model_type": ..., "architectures": ["ElectraModel"]}, "'ElectraModel'; accepted"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; accepted: gelu, gelu_new"),
        ({"position_embedding_type": "relative_key"}, "accepted: 'absolute'"),
        ({"is_decoder": True}, "is_decoder is True; accepted: False"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"hidden_size": "6"}, "hidden_size is '6'; accepted: int"),
        ({"hidden_size": True}, "hidden_size is True; accepted: int"),
        ({"hidden_size": 7}, "not a multiple"),
        ({"hidden_dropout_prob": 1.5}, "dropout is 1.5"),
    ],
)
def test_what_is_no_bert_is_refused(change, says, tmp_path):
    file = write_config(tmp_path, **change)
    with pytest.raises(CheckpointError, match=says) as error:
        read_config(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_config_that_is_damaged_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="config.json"):
        read_config(tmp_path / "config.json")


def test_weights_without_a_config_or_a_vocabulary_are_refused(pretraining, tmp_path):
    for name in ("config.json", "vocab.txt"):
        directory = write_directory(tmp_path / name, pretraining)
        (directory / name).unlink()
        with pytest.raises(CheckpointError, match=name):
            load_run(directory)


def test_more_pieces_than_rows_are_refused_and_fewer_are_not(pretraining, tmp_path):
    directory = write_directory(tmp_path / "more", pretraining, pieces=[*PIECES, "z"])
    with pytest.raises(CheckpointError, match="14 pieces; accepted: at most .* 13"):
        load_run(directory)
    run = load_run(write_directory(tmp_path / "fewer", pretraining, pieces=PIECES[:-1]))
    assert len(run.fill_mask("[MASK]", top_k=20)[0]) == 12


# ---- Tokenizers ----------------------------------------------------------------------------------


def write_tokenizer(directory, pieces=PIECES, **files):
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("\n".join(pieces) + "\n")
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def tokenizer_json(**changes):
    model = {"type": "WordPiece", "vocab": {piece: i for i, piece in enumerate(PIECES)}}
    normalizer = {"type": "BertNormalizer", "lowercase": False, "strip_accents": None}
    return {
        "model": model | {"max_input_chars_per_word": 50} | changes.pop("model", {}),
        "normalizer": normalizer | changes,
    }


def test_who_says_whether_case_is_lowered(tmp_path):
    """tokenizer_config.json, else tokenizer.json, else the vocabulary."""
    silent = write_tokenizer(tmp_path / "a", tokenizer_config={})
    assert read_tokenizer(silent).lower_case
    assert not read_tokenizer(write_tokenizer(tmp_path / "b", [*PIECES, "A"])).lower_case
    said = write_tokenizer(tmp_path / "c", tokenizer=tokenizer_json())
    assert not read_tokenizer(said).lower_case
    both = write_tokenizer(
        tmp_path / "d", tokenizer=tokenizer_json(), tokenizer_config={"do_lower_case": True}
    )
    assert read_tokenizer(both).lower_case


def test_a_vocabulary_in_tokenizer_json_alone(tmp_path):
    directory = write_tokenizer(tmp_path / "a", tokenizer=tokenizer_json())
    (directory / "vocab.txt").unlink()
    tokenizer = read_tokenizer(directory)
    assert list(tokenizer.pieces) == PIECES and tokenizer.max_word_length == 50


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"tokenizer": tokenizer_json(model={"type": "BPE"})}, "accepted: WordPiece"),
        ({"tokenizer": tokenizer_json(type="NFC")}, "accepted: WordPiece with BertNormalizer"),
        ({"tokenizer": tokenizer_json(model={"vocab": {"a": 1}})}, "ids with gaps"),
        ({"tokenizer": tokenizer_json(handle_chinese_chars=False)}, "handle_chinese_chars"),
        ({"tokenizer": tokenizer_json(strip_accents=True)}, "strip_accents is True"),
        (
            {"tokenizer_config": {"do_lower_case": True, "strip_accents": False}},
            "strip_accents is False",
        ),
        ({"tokenizer_config": {"tokenize_chinese_chars": False}}, "tokenize_chinese_chars"),
    ],
)
def test_a_tokenizer_that_splits_otherwise_is_refused(files, says, tmp_path):
    with pytest.raises(CheckpointError, match=says):
        read_tokenizer(write_tokenizer(tmp_path / "a", **files))


def test_a_vocabulary_without_special_pieces_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"lacks \[MASK\]"):
        read_tokenizer(write_tokenizer(tmp_path / "a", [p for p in PIECES if p != "[MASK]"]))
