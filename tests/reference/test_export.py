"""Real weights are converted to Hugging Face's format; transformers opens them unchanged."""

import os
import subprocess
import sys
from pathlib import Path

import conformance
import huggingface
import numpy as np
import pytest
import torch
from huggingface import EAGER
from transformers import AutoModelForPreTraining, AutoTokenizer, BertConfig, BertForPreTraining

from bert_jax import load_run

ROOT = Path(__file__).parents[2]
MODEL_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("max_position_embeddings", "type_vocab_size", "hidden_act", "layer_norm_eps"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"),
)
HEADS = ("masked_token_head", "next_sentence_head")


def convert(source, output, *, to, allow=()):
    """Runs the command `convert` in another process."""
    command = [sys.executable, "-m", "bert_jax.convert", f"--source={source}"]
    command += [f"--output={output}", f"--to={to}", *(f"--allow={name}" for name in allow)]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return output


def open_exported(directory):
    model, loading = AutoModelForPreTraining.from_pretrained(
        directory, output_loading_info=True, **EAGER
    )
    assert isinstance(model, BertForPreTraining)
    assert not any(loading.values()), loading  # missing, unexpected or mismatched tensors
    return model


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def assert_same_outputs(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture(scope="module")
def exported_rxnfp(rxnfp, tmp_path_factory):
    """Weights that `convert` has changed to our format and back to Hugging Face's."""
    directory = tmp_path_factory.mktemp("rxnfp")
    ours = convert(rxnfp.directory, directory / "ours", to="bert_jax")
    return convert(ours, directory / "theirs", to="huggingface")


@pytest.fixture(scope="module")
def exported_minilm(minilm, tmp_path_factory):
    output = tmp_path_factory.mktemp("minilm") / "theirs"
    return convert(minilm.directory, output, to="huggingface", allow=HEADS)


def test_converting_to_our_format_and_back_is_bitwise(rxnfp, exported_rxnfp):
    model = open_exported(exported_rxnfp)
    assert_same_bits(model.state_dict(), rxnfp.torch_model.state_dict())
    batch = rxnfp.batches[0]
    assert_same_outputs(
        huggingface.predict(model, batch), huggingface.predict(rxnfp.torch_model, batch)
    )
    found, expected = (BertConfig.from_pretrained(d) for d in (exported_rxnfp, rxnfp.directory))
    for name in MODEL_FIELDS:
        assert getattr(found, name) == getattr(expected, name), name
    vocabularies = [d / "vocab.txt" for d in (rxnfp.directory, exported_rxnfp)]
    first, second = (file.read_text(encoding="utf-8").splitlines() for file in vocabularies)
    assert first == second


def test_a_bare_encoder_is_exported_unchanged_with_new_heads(minilm, exported_minilm):
    model = open_exported(exported_minilm)
    assert_same_bits(model.bert.state_dict(), minilm.torch_model.state_dict())
    batch = minilm.batches[0]
    assert_same_outputs(
        huggingface.encode(model.bert, batch), huggingface.encode(minilm.torch_model, batch)
    )


def test_the_exported_tokenizer_gives_the_same_ids(minilm, exported_minilm):
    texts = ["The president spoke to the Congress.", "naïve Café — 北京 unaffable!", ""]
    ours, theirs = (
        AutoTokenizer.from_pretrained(directory)
        for directory in (exported_minilm, minilm.directory)
    )
    for text in texts:
        found, expected = ours(text, texts[0]), theirs(text, texts[0])
        for field in ("input_ids", "token_type_ids", "attention_mask"):
            assert found[field] == expected[field], text


@pytest.mark.parametrize("name", ["rxnfp_encoder", "rxnfp_classifier"])
def test_other_layouts_are_read_bitwise(weights, name):
    """Reads a bare encoder without the prefix `bert.`, and a classifier saved from a GPU."""
    directory = weights(name)
    run = load_run(directory, allow=HEADS)
    ours = conformance.by_huggingface_name(run.model.config, run.params)
    ours = {name: array for name, array in ours.items() if not name.startswith("cls.")}
    theirs = torch.load(directory / "pytorch_model.bin", weights_only=True, map_location="cpu")
    theirs = {f"bert.{name.removeprefix('bert.')}": tensor for name, tensor in theirs.items()}
    theirs = {name: tensor for name, tensor in theirs.items() if "classifier" not in name}
    assert len(theirs) == 199
    assert_same_bits({name: torch.tensor(array) for name, array in ours.items()}, theirs)
