"""Weights in shards: those of `save_pretrained` are read, and transformers opens ours."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, BertConfig, BertForPreTraining

from bert_jax import load_run
from bert_jax.interop.huggingface import read_huggingface
from bert_jax.interop.tensor_files import write_safetensors
from bert_jax.runs.save import save_run

INDEX = "model.safetensors.index.json"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{i}" for i in range(395))]
ARCHITECTURE = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A random model, and the directory that transformers saved in shards of at most 40 kB."""
    torch.manual_seed(0)
    layers = {"num_hidden_layers": 3, "num_attention_heads": 4}
    model = BertForPreTraining(BertConfig(vocab_size=len(PIECES), **ARCHITECTURE, **layers))
    for name, parameter in model.named_parameters():  # zeros would hide a wrong name
        torch.nn.init.normal_(parameter) if name.endswith("bias") else None
    directory = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(directory, max_shard_size="40KB")
    (directory / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return model, directory


def shards(directory):
    """Returns the files that the index names. There is no other file of weights."""
    index = json.loads((directory / INDEX).read_text())
    names = set(index["weight_map"].values())
    assert {file.name for file in directory.glob("*.safetensors")} == names
    return names


def test_shards_of_save_pretrained_are_read_bitwise(theirs, tmp_path):
    model, directory = theirs
    assert len(shards(directory)) > 3
    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    found = read_huggingface(directory).tensors
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        np.testing.assert_array_equal(found[name].view(np.uint32), tensor.numpy().view(np.uint32))
    run = load_run(directory)  # strict: every tensor is used
    table = run.params["bert"]["embeddings"]["token"][: len(PIECES)]
    np.testing.assert_array_equal(table, whole["bert.embeddings.word_embeddings.weight"])


def test_transformers_opens_our_shards_bitwise(theirs, tmp_path):
    model, directory = theirs
    save_run(load_run(directory), tmp_path, to="huggingface")
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    write_safetensors(
        tmp_path, {name: tensor.numpy() for name, tensor in tensors.items()}, shard_bytes=40_000
    )
    assert len(shards(tmp_path)) > 3
    opened, loading = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values()), loading
    expected = model.state_dict()
    assert opened.state_dict().keys() == expected.keys()
    for name, tensor in opened.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
