"""A foreign config or vocabulary is read with its own meaning, or refused in one line."""

import json

import pytest
from layouts import CONFIG, GOLDENS, PIECES, write_directory

from bert_jax.errors import CheckpointError, DataError
from bert_jax.interop.source import config_json, decide_casing, read_config
from bert_jax.models.config import BertConfig
from bert_jax.runs.load import load_run


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
    [
        *(("gelu", "gelu_erf"), ("gelu_new", "gelu_tanh"), ("gelu_pytorch_tanh", "gelu_tanh")),
        *(("relu", "relu"), ("silu", "silu"), ("swish", "silu")),
    ],
)
def test_each_activation(act, activation, tmp_path):
    assert read_config(write_config(tmp_path, hidden_act=act)).activation == activation


def test_an_old_config_without_model_type_is_read_as_bert(tmp_path):
    older = write_config(tmp_path, model_type=..., architectures=..., layer_norm_eps=...)
    assert read_config(older).layer_norm_epsilon == 1e-12


def test_a_bert_under_another_architecture_name_is_read(tmp_path):
    """The model type says what the model computes. Its tensors are checked by name."""
    read_config(write_config(tmp_path, model_type="bert", architectures=["DNAEncoder"]))


@pytest.mark.parametrize(
    ("pieces", "lower_case"),
    [
        (["[PAD]", "[CLS]", "a", "##b", "é", "中"], True),
        (["<S>", "<T>", "[unused1]", "[X]", "a", "1A"], True),  # Google's uncased Chinese pieces
        (["a", "A"], False),
        (["a", "##A"], False),
        (["Я", "я"], False),
    ],
)
def test_a_capital_letter_in_a_word_of_the_vocabulary_means_cased(pieces, lower_case):
    assert decide_casing(pieces, None)[0] == lower_case
    assert decide_casing(pieces, not lower_case) == (not lower_case, "as given")


def test_the_casing_of_a_bare_vocabulary_is_reported_and_can_be_given(pretraining, tmp_path):
    directory = write_directory(tmp_path / "hf", pretraining)
    for path in (directory, GOLDENS / "tf1" / "bert_model.ckpt"):
        for given in (None, True, False):
            run = load_run(path, lower_case=given)
            assert run.tokenizer.to_json()["lower_case"] == (given is not False)
            reason = "because no word of vocab.txt has a capital" if given is None else "as given"
            assert f"tokenizer: lower_case {given is not False}, {reason}" in run.report()
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert "lower_case True, as the tokenizer's files say" in load_run(directory).report()
    assert not load_run(directory, lower_case=False).tokenizer.to_json()["lower_case"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'; accepted: 'bert'"),
        ({"model_type": ..., "architectures": ["ElectraModel"]}, "'ElectraModel'; accepted"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; accepted: gelu, gelu_python, gelu_new"),
        ({"position_embedding_type": "relative_key"}, "accepted: 'absolute'"),
        ({"is_decoder": True}, "is_decoder is True; accepted: False"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"hidden_size": "6"}, "hidden_size is '6'; accepted: int"),
        ({"hidden_size": True}, "hidden_size is True; accepted: int"),
        ({"hidden_size": 7}, "hidden_size is 7; accepted: a multiple"),
        ({"hidden_dropout_prob": 1.5}, "dropout is 1.5"),
    ],
)
def test_a_config_that_is_not_bert_is_refused(change, says, tmp_path):
    file = write_config(tmp_path, **change)
    with pytest.raises(CheckpointError, match=says) as error:
        read_config(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_damaged_config_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match="config.json"):
        read_config(tmp_path / "config.json")


def test_weights_without_a_config_or_a_vocabulary_are_refused(pretraining, tmp_path):
    for name in ("config.json", "vocab.txt"):
        directory = write_directory(tmp_path / name, pretraining)
        (directory / name).unlink()
        with pytest.raises((CheckpointError, DataError), match=name):
            load_run(directory)


def test_a_vocabulary_may_have_fewer_pieces_than_rows_but_not_more(pretraining, tmp_path):
    directory = write_directory(tmp_path / "more", pretraining, pieces=[*PIECES, "z"])
    with pytest.raises(CheckpointError, match="14 pieces; accepted: at most .* 13"):
        load_run(directory)
    run = load_run(write_directory(tmp_path / "fewer", pretraining, pieces=PIECES[:-1]))
    assert len(run.fill_mask("[MASK]", top_k=20)[0]) == 12
