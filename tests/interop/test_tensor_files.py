"""Weights in shards, of flax and of training checkpoints are read bitwise, or refused by name."""

import json
import shutil

import flax.serialization
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from layouts import GOLDENS

from bert_jax.errors import CheckpointError
from bert_jax.interop import tensor_files
from bert_jax.interop.tensor_files import read_flax, read_weights, weights_file, write_safetensors

TINY = GOLDENS / "tiny_bert"
TENSORS = {f"t{i}": np.arange(i + 3, dtype=np.float32) for i in range(5)}


def check_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found[name], tensor, strict=True)


@pytest.mark.parametrize(("shard_bytes", "files"), [(10**9, 1), (32, 4), (1, 5)])
def test_shards_are_written_and_read_bitwise(shard_bytes, files, tmp_path):
    write_safetensors(tmp_path, TENSORS, shard_bytes=shard_bytes)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    file = weights_file(tmp_path)
    assert file and (file.suffix == ".json") == (files > 1)
    check_same(read_weights(file), TENSORS)


@pytest.mark.parametrize(
    ("shard", "says"),
    [
        ("../model.safetensors", "weight_map.*accepted: the name of a file in this directory"),
        ("/etc/model.safetensors", "weight_map.*accepted: the name of a file in this directory"),
        ("model.safetensors.index.json", "names 'model.safetensors.index.json'; accepted: names"),
        ("other.bin", "names 'other.bin'; accepted: names ending in .safetensors"),
        ("nowhere.safetensors", "nowhere.safetensors cannot be read"),
        ("model-00002-of-00003.safetensors", "lacks t0, unlike model.safetensors.index.json"),
        (5, "is int; accepted: str"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(shard, says, tmp_path):
    write_safetensors(tmp_path, TENSORS, shard_bytes=50)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    assert len(set(content["weight_map"].values())) == 3
    content["weight_map"] |= dict.fromkeys(("t0", "t1", "t2"), shard)
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=says) as error:
        read_weights(index)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_the_flax_model_of_transformers_holds_the_tensors_of_torch():
    """The golden file was written by transformers 4.57.3 (make_flax.py)."""
    expected = safetensors.numpy.load_file(TINY / "model.safetensors")
    check_same(read_weights(TINY / "flax_model.msgpack"), expected)


def test_a_large_array_of_flax_is_read_from_its_parts(monkeypatch, tmp_path):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 40)
    kernel = np.arange(30, dtype=np.float32).reshape(5, 6)
    half = np.ones(3, "bfloat16")
    content = flax.serialization.msgpack_serialize({"a": {"kernel": kernel, "bias": half}})
    (tmp_path / "m.msgpack").write_bytes(content)
    assert b"__msgpack_chunked_array__" in content
    check_same(read_flax(tmp_path / "m.msgpack"), {"a.weight": kernel.T, "a.bias": half})


def array(shape, dtype, content):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, content)))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (5, r"it is no array \(int\)"),
        ({"a": {"b": "x"}}, r"a.b is no array \(str\)"),
        ({"a": msgpack.ExtType(2, b"")}, "extension 2"),
        ({"a": array((2,), "float32", bytes(4))}, "cannot be read"),
        ({"a": array((-1,), "float32", bytes(4))}, "float32.* with shape"),
        ({"a": array((2**40, 2**40), "float32", b"")}, "cannot be read"),
        ({"a": array((1,), "object", bytes(8))}, "an array of 'object'"),
        ({"a": array((1,) * 40, "float32", bytes(4))}, "cannot be read"),
        ({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 9}, "chunks": {}}}, "do not fit"),
        ([0] * 100, "cannot be read"),
    ],
)
def test_a_flax_file_with_something_other_than_arrays_is_refused(value, says, tmp_path):
    (tmp_path / "m.msgpack").write_bytes(msgpack.packb(value))
    with pytest.raises(CheckpointError, match=says) as error:
        read_flax(tmp_path / "m.msgpack")
    assert "m.msgpack" in str(error.value) and "\n" not in str(error.value)


def test_a_length_in_a_flax_file_takes_no_memory(tmp_path):
    (tmp_path / "m.msgpack").write_bytes(b"\xdd" + (2**32 - 1).to_bytes(4, "big"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_flax(tmp_path / "m.msgpack")


@pytest.mark.parametrize("name", tensor_files.WEIGHTS)
def test_a_pointer_of_git_lfs_is_named_as_such(name, tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8431800\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(CheckpointError, match="is a git-lfs pointer, not the file itself"):
        read_weights(tmp_path / name)


def test_a_pointer_in_place_of_googles_data_is_named_as_such(tmp_path):
    from bert_jax.interop.tensorflow import read_bundle

    shutil.copytree(GOLDENS / "tf1", tmp_path, dirs_exist_ok=True)
    data = tmp_path / "bert_model.ckpt.data-00000-of-00001"
    data.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="is a git-lfs pointer"):
        read_bundle(tmp_path / "bert_model.ckpt")
