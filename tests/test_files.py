"""JSON files have the type that a reader asks for, and writes follow no symbolic link."""

import os
from typing import NotRequired, TypedDict

import numpy as np
import pytest

from bert_jax.errors import CheckpointError, DataError, OutOfMemoryError
from bert_jax.files import (
    Count,
    FileName,
    open_to_append,
    parsing,
    read_array,
    read_json,
    replacing,
    write_array,
    write_atomically,
    write_json,
)


class Shard(TypedDict):
    file: FileName
    rows: NotRequired[Count]


class Form(TypedDict):
    shards: list[Shard]
    size: NotRequired[float]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ":1 is not JSON (Expecting value)"),
        (b'{"shards":\n [}', ":2 is not JSON (Expecting value)"),
        (b"[" * 100_000, " is not JSON (maximum recursion depth"),
        (b"9" * 5000, " is not JSON (Exceeds the limit"),
        (b"\xff{}", " is not UTF-8 at byte 0"),
        (b'{"shards": "\\ud83d"}', " is not JSON ('utf-8' codec can't encode character '\\ud83d'"),
        (b"[1]", " holds a list; accepted: a JSON object"),
        (b"null", " holds a NoneType; accepted: a JSON object"),
        (b"{}", ": the object lacks the field shards"),
        (b'{"shards": 1}', ": shards is int; accepted: array"),
        (b'{"shards": [{"file": 1}]}', ": shards[0].file is int; accepted: str"),
        (b'{"shards": [{"file": "a", "rows": -1}]}', ".rows is another value; accepted: int >= 0"),
        (b'{"shards": [{"file": "a", "rows": true}]}', ".rows is bool; accepted: int"),
        (b'{"shards": [{"file": "../../etc/passwd"}]}', "accepted: the name of a file in this"),
        (b'{"shards": [{"file": ".."}]}', "accepted: the name of a file in this"),
        (b'{"shards": [{"file": "/etc/passwd"}]}', "accepted: the name of a file in this"),
        (b'{"shards": [], "size": "1"}', ": size is str; accepted: float"),
    ],
)
def test_the_error_names_the_file_and_the_field(content, said, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_json(tmp_path / "a.json", Form, advice="; write it again")
    assert f"{tmp_path}/a.json" in str(error.value) and said in str(error.value)
    assert "\n" not in str(error.value)


def test_fields_that_the_type_does_not_name_are_kept(tmp_path):
    value = {"shards": [{"file": "a-0.x", "more": None}], "size": 1, "others": [1, {}]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", Form) == value


def test_a_file_that_cannot_be_read_has_the_error_of_the_caller(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("none", "No such file"), (".", "Is a directory"), ("pipe", "a pipe")):
        with pytest.raises(CheckpointError, match=said):
            read_json(tmp_path / name, error=CheckpointError)


def test_any_exception_of_a_parser_becomes_one_line(tmp_path):
    for problem in (KeyError("a\nb"), RecursionError(), OSError("x"), EOFError()):
        with pytest.raises(DataError) as error, parsing(tmp_path, accepted="a file"):
            raise problem
        said = str(error.value)
        assert said.startswith(f"{tmp_path} cannot be read (") and said.endswith("accepted: a file")
        assert "\n" not in said
    with pytest.raises(CheckpointError, match="^typed$"), parsing(tmp_path, accepted="a file"):
        raise CheckpointError("typed")


def test_too_little_memory_is_no_damage(tmp_path):
    said = f"{tmp_path} needs more memory than there is .9 GiB.; accepted: a file, and memory"
    with pytest.raises(OutOfMemoryError, match=said), parsing(tmp_path, accepted="a file"):
        raise MemoryError("9 GiB")


# ---- Links ---------------------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path):
    (tmp_path / "victim").write_text("precious")
    yield tmp_path / "victim"
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize("name", ["a", "a.tmp"])
@pytest.mark.parametrize("exists", [True, False])
def test_an_atomic_write_replaces_a_link_and_not_its_target(name, exists, victim, tmp_path):
    target = victim if exists else tmp_path / "nowhere"
    for write, content in (
        (lambda file: write_atomically(file, "new"), b"new"),
        (lambda file: write_json(file, {}), b"{}\n"),
        (lambda file: write_array(np.zeros(3), path=file), None),
    ):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(target)
        write(tmp_path / "a")
        assert not (tmp_path / "a").is_symlink() and not (tmp_path / "nowhere").exists()
        assert content is None or (tmp_path / "a").read_bytes() == content


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_nothing_is_appended_through_a_link(victim, tmp_path):
    (tmp_path / "a").symlink_to(victim)
    (tmp_path / "b").symlink_to(tmp_path / "nowhere")
    for name in ("a", "b"):
        with pytest.raises(CheckpointError, match=f"{name} is a symbolic link; accepted: a file"):
            open_to_append(tmp_path / name)
    for text in ("one ", "two"):
        with open_to_append(tmp_path / "c") as file:
            file.write(text)
    assert (tmp_path / "c").read_text() == "one two" and not (tmp_path / "nowhere").exists()


# ---- Arrays --------------------------------------------------------------------------------------

HEADER = "{{'descr': '<i8', 'fortran_order': False, 'shape': ({},), }}"


@pytest.mark.parametrize("rows", ["9" * 13, "9" * 30, "-1", "'x'", "1, " * 5000])
def test_the_header_of_an_array_takes_no_memory(rows, tmp_path):
    """The header may describe 72 TiB in a file of 100 bytes."""
    header = HEADER.format(rows).encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npy cannot be read \(.*accepted: a whole \.npy file"):
        read_array(tmp_path / "a.npy", dtype="int64")
