"""Files of torch.save are read bitwise, and no code that they contain is run."""

import io
import os
import pickle
import resource
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from layouts import GOLDENS, LAYOUTS, random_tensors, write_directory

from bert_jax.errors import CheckpointError
from bert_jax.interop.torch_files import MAGIC_NUMBER, PROTOCOL_VERSION, _unpickle, read_torch
from bert_jax.runs.load import load_run

FORMATS = ("zip", "legacy")


@pytest.mark.parametrize("name", FORMATS)
def test_files_of_torch_are_read_bitwise(name):
    tensors = read_torch(GOLDENS / "huggingface" / f"{name}.bin")
    expected = np.load(GOLDENS / "huggingface" / "tensors.npz")
    assert sorted(tensors) == sorted(expected)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.astype(np.float64), expected[key], strict=True)
    dtypes = {tensors[name].dtype.name for name in ("half", "bfloat16", "ids", "0.weight")}
    assert dtypes == {"float16", "bfloat16", "int64", "float32"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused_at_any_length(name, tmp_path):
    content = (GOLDENS / "huggingface" / f"{name}.bin").read_bytes()
    file = tmp_path / "pytorch_model.bin"
    for length in range(0, len(content), 5):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="pytorch_model.bin") as error:
            read_torch(file)
        assert "\n" not in str(error.value)


def test_a_changed_byte_of_a_zip_is_noticed(tmp_path):
    content = bytearray((GOLDENS / "huggingface" / "zip.bin").read_bytes())
    weight = read_torch(GOLDENS / "huggingface" / "zip.bin")["0.weight"]
    content[content.index(weight.tobytes()) + 5] ^= 1
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="CRC"):
        read_torch(tmp_path / "model.bin")


# ---- Files written by these tests ----------------------------------------------------------------


@pytest.fixture
def torch_names(monkeypatch):
    """A stand-in for torch, so that pickle can write its globals. The reader never imports it."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    rebuild = types.FunctionType((lambda *_: None).__code__, {}, "_rebuild_tensor_v2")
    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = rebuild, utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


def call(function, *arguments):
    """An object whose unpickling calls the function."""
    return type("Call", (), {"__reduce__": lambda self: (function, arguments)})()


class Storage:
    def __init__(self, pid):
        self.pid = pid


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, Storage) else None


def pickled(value):
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def write(file, value, *, name, data=b""):
    """Writes a file in the format `name` with the pickled value and one float32 storage, `0`."""
    if name == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data.pkl", pickled(value))
            archive.writestr("model/data/0", data)
        return file
    header = [MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}, value, ["0"] if data else []]
    size = struct.pack("<q", len(data) // 4) if data else b""
    file.write_bytes(b"".join(map(pickled, header)) + size + data)
    return file


def tensor(torch, offset, shape, strides, *, size=4):
    storage = Storage(("storage", torch.FloatStorage, "0", "cpu", size, None))
    return call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, {})


@pytest.mark.parametrize("name", FORMATS)
def test_a_tensor_is_a_view_of_its_storage(name, torch_names, tmp_path):
    data = np.arange(4, dtype=np.float32)
    value = {"w": tensor(torch_names, 1, (2, 1), (2, 1)), "empty": tensor(torch_names, 0, (0,), ())}
    value["empty"] = tensor(torch_names, 4, (0, 3), (3, 1))
    tensors = read_torch(write(tmp_path / "m.bin", value, name=name, data=data.tobytes()))
    np.testing.assert_array_equal(tensors["w"], np.array([[1], [3]], np.float32), strict=True)
    assert tensors["empty"].shape == (0, 3)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(1, (4,), (1,)), (0, (2,), (4,)), (-1, (2,), (1,)), (3, (2,), (-1,)), (0, (2, 2), (1,))],
)
def test_a_tensor_cannot_reach_beyond_its_storage(
    offset, shape, strides, name, torch_names, tmp_path
):
    value = {"w": tensor(torch_names, offset, shape, strides)}
    file = write(tmp_path / "m.bin", value, name=name, data=bytes(16))
    with pytest.raises(CheckpointError, match="m.bin cannot be read"):
        read_torch(file)


@pytest.mark.parametrize("name", FORMATS)
def test_a_storage_whose_size_differs_from_its_data_is_refused(name, torch_names, tmp_path):
    value = {"w": tensor(torch_names, 0, (5,), (1,), size=5)}
    file = write(tmp_path / "m.bin", value, name=name, data=bytes(16))
    with pytest.raises(CheckpointError, match="m.bin cannot be read"):
        read_torch(file)


@pytest.mark.parametrize("value", [[1], {"step": 3}, {1: 2}, {"nested": {"w": 1}}])
def test_a_value_that_is_not_a_dictionary_of_tensors_is_refused(value, tmp_path):
    for name in FORMATS:
        with pytest.raises(CheckpointError, match="accepted: names and tensors"):
            read_torch(write(tmp_path / "m.bin", value, name=name))


@pytest.mark.parametrize("key", ["model", "state_dict", "module"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_tensors_of_a_training_checkpoint_are_read(key, name, torch_names, tmp_path):
    """The optimizer's tensors are in the file too, and are not read."""
    value = {"epoch": 3, "optimizer": [tensor(torch_names, 0, (2,), (1,)), {"lr": 0.1}]}
    value[key] = {"w": tensor(torch_names, 1, (2,), (1,))}
    data = np.arange(4, dtype=np.float32)
    tensors = read_torch(write(tmp_path / "m.bin", value, name=name, data=data.tobytes()))
    assert tensors.keys() == {"w"} and tensors["w"].tolist() == [1, 2]
    other = Storage(("storage", torch_names.FloatStorage, "0", "cpu", 4, None))
    value = {"optimizer": other, key: {}}
    assert read_torch(write(tmp_path / "m.bin", value, name=name, data=data.tobytes())) == {}


# ---- Malicious files -----------------------------------------------------------------------------


def attacks(target):
    """Pickles that create the file `target` in different ways, each with the name to be refused."""
    return {
        "os.system": (call(os.system, f"touch {target}"), f"{os.name}.system"),
        "eval": (call(eval, f"open({str(target)!r}, 'w').close()"), "builtin.*eval"),
        "exec": (call(exec, f"open({str(target)!r}, 'w').close()"), "builtin.*exec"),
        "path": (call(Path.touch, Path(target)), "getattr|pathlib"),
        "subclass": (
            call(OrderedDict.fromkeys, call(os.system, f"touch {target}")),
            "system|getat",
        ),
    }


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("attack", ["os.system", "eval", "exec", "path", "subclass"])
def test_a_malicious_pickle_is_refused_and_not_run(attack, name, tmp_path):
    target = tmp_path / "ran"
    value, says = attacks(target)[attack]
    for place in (value, {"w": value}, {"w": [value]}):
        file = write(tmp_path / "pytorch_model.bin", place, name=name)
        with pytest.raises(CheckpointError, match=says) as error:
            read_torch(file)
        assert "nothing was run" in str(error.value) and "\n" not in str(error.value)
        assert not target.exists()
    try:
        pickle.loads(pickled(value))  # Python's own reader runs the same bytes
    except TypeError:
        pass  # raised after the call, because its result is not iterable
    assert target.exists()


def test_an_attack_in_the_header_or_in_the_keys_is_refused(tmp_path):
    target = tmp_path / "ran"
    value, _ = attacks(target)["os.system"]
    good = [MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}, {}, []]
    for place in range(len(good)):
        parts = [*good[:place], value, *good[place + 1 :]]
        (tmp_path / "m.bin").write_bytes(b"".join(map(pickled, parts)))
        with pytest.raises(CheckpointError, match="nothing was run"):
            read_torch(tmp_path / "m.bin")
    assert not target.exists()


def test_a_pickle_cannot_modify_the_reader(torch_names, tmp_path):
    """The opcode BUILD sets attributes of the object on the stack, maybe of a reader's function."""
    code = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__(K\x01tss\x86b."
    )
    (tmp_path / "m.bin").write_bytes(code)
    with pytest.raises(CheckpointError):
        read_torch(tmp_path / "m.bin")
    for name in FORMATS:
        assert read_torch(GOLDENS / "huggingface" / f"{name}.bin")


def test_load_run_refuses_a_malicious_directory(tmp_path):
    directory = write_directory(tmp_path / "hf", random_tensors(LAYOUTS["BertModel"]))
    (directory / "model.safetensors").unlink()
    value, _ = attacks(tmp_path / "ran")["os.system"]
    write(directory / "pytorch_model.bin", value, name="legacy")
    with pytest.raises(CheckpointError, match="nothing was run"):
        load_run(directory)
    assert not (tmp_path / "ran").exists()


# ---- Files that ask for memory -------------------------------------------------------------------

MEMO = b"\x80\x02}r" + struct.pack("<I", 300_000_000) + b"."
"""A pickle of a dictionary that is stored under number 300,000,000: Python's table takes 4.8 GB."""


@pytest.mark.parametrize("name", FORMATS)
def test_the_number_of_a_stored_object_takes_no_memory(name, tmp_path):
    file = write(tmp_path / "m.bin", {}, name=name)
    if name == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data.pkl", MEMO)
    else:
        file.write_bytes(b"".join(map(pickled, [MAGIC_NUMBER, PROTOCOL_VERSION])) + MEMO)
    with pytest.raises(CheckpointError, match="object 0 of a pickle has number 300000000"):
        read_torch(file)


def test_python_2_numbers_stored_objects_from_1():
    assert _unpickle(io.BytesIO(b"\x80\x02}q\x01."))[0] == {}


@pytest.mark.parametrize("opcode", [b"B", b"\x8e", b"X", b"\x8d", b"\x95", b"\x8b"])
def test_the_length_of_an_object_takes_no_memory(opcode, tmp_path):
    width = 8 if opcode in b"\x8e\x8d\x95" else 4
    (tmp_path / "m.bin").write_bytes(b"\x80\x04" + opcode + (2**31 - 9).to_bytes(width, "little"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="m.bin cannot be read"):
        read_torch(tmp_path / "m.bin")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


def test_a_compressed_entry_is_refused_before_it_is_inflated(torch_names, tmp_path):
    value = {"w": tensor(torch_names, 0, (2**20,), (1,), size=2**20)}
    with zipfile.ZipFile(tmp_path / "m.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", pickled(value))
        archive.writestr("model/data/0", bytes(2**22))
    with pytest.raises(CheckpointError, match="entries are compressed; accepted: as torch.save"):
        read_torch(tmp_path / "m.bin")


@pytest.mark.parametrize("name", FORMATS)
def test_a_tensor_that_repeats_its_storage_is_refused(name, torch_names, tmp_path):
    value = {"w": tensor(torch_names, 0, (2**40, 2**10), (0, 0))}
    file = write(tmp_path / "m.bin", value, name=name, data=bytes(16))
    with pytest.raises(CheckpointError, match="a tensor that is larger than its storage"):
        read_torch(file)
