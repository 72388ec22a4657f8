"""A checkpoint whose files are not what was saved is never restored."""

import json
import random
import shutil

import pytest
from same_run import UNTIMED

from bert_jax import load_run
from bert_jax.config import override
from bert_jax.errors import CheckpointError
from bert_jax.faults.damage import DIGESTS_FILE, check_step, move_damaged, newest_whole_step
from bert_jax.training.train import train


@pytest.fixture(scope="module")
def short(experiment):
    return override(experiment, {"training.checkpoint_every": 4})


@pytest.fixture(scope="module")
def trained(short, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    return train(short, workdir), workdir


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, whose last steps are 8 and 12."""
    shutil.copytree(trained[1], tmp_path / "run")
    return tmp_path / "run"


def flip_a_bit(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def delete(path, rng):
    path.unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, cut, delete])
def test_damage_of_any_file_is_found_and_named(damage, run):
    rng = random.Random(0)
    step = run / "checkpoints" / "12"
    names = json.loads((step / DIGESTS_FILE).read_bytes())["sha256"]
    assert len(names) > 10 and any(name.startswith("state/d/") for name in names)
    for name in names:
        before = (step / name).read_bytes()
        damage(step / name, rng)
        with pytest.raises(CheckpointError, match="is damaged") as error:
            check_step(run, 12)
        said = str(error.value)
        assert name in said or (name == "position/metadata" and "its position" in said)
        (step / name).write_bytes(before)
    check_step(run, 12)


@pytest.mark.parametrize("damage", [flip_a_bit, cut, delete])
def test_damaged_digests_are_damage(damage, run):
    for seed in range(10):
        file = run / "checkpoints" / "12" / DIGESTS_FILE
        before = file.read_bytes()
        damage(file, random.Random(seed))
        with pytest.raises(CheckpointError, match="is damaged"):
            check_step(run, 12)
        file.write_bytes(before)


def test_a_run_goes_on_from_the_step_before_a_damaged_one(run, short, trained, capsys):
    (run / "result.json").unlink()
    (run / "checkpoints" / "12" / "state" / "_sharding").unlink()  # not needed on one device
    with pytest.raises(CheckpointError, match="state/_sharding is missing"):
        load_run(run)
    assert load_run(run, verify=False).step == 12
    result = train(short, run)
    assert "12 is damaged" in capsys.readouterr().err
    assert (run / "damaged" / "12").is_dir()
    assert {**result, **UNTIMED} == {**trained[0], **UNTIMED}


def test_a_run_stops_at_a_damaged_step_if_the_field_says_so(run, short):
    (run / "result.json").unlink()
    (run / "checkpoints" / "12" / "config" / "metadata").unlink()
    with pytest.raises(CheckpointError, match="config/metadata is missing"):
        train(override(short, {"training.on_damaged_checkpoint": "stop"}), run)
    assert not (run / "damaged").exists()


def test_a_run_without_a_whole_step_stops_and_keeps_all_steps(run, short):
    for step in ("8", "12"):
        (run / "checkpoints" / step / "position" / "metadata").write_text("{")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="12 is damaged .its position cannot be read"):
            newest_whole_step(run, on_damaged="previous")
    assert (run / "checkpoints" / "12").is_dir() and not (run / "damaged").exists()


def test_an_empty_directory_of_a_step_is_moved_aside(run):
    for _ in range(2):
        (run / "checkpoints" / "16").mkdir()
        assert newest_whole_step(run, on_damaged="previous") == 12
        move_damaged(run, newest_whole=12)
    assert {path.name for path in (run / "damaged").iterdir()} == {"16", "16-2"}


def test_a_step_of_an_earlier_version_opens_with_a_warning(run, capsys):
    step = run / "checkpoints" / "12"
    (step / DIGESTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="digests.json is missing"):
        check_step(run, 12)
    position = json.loads((step / "position" / "metadata").read_bytes())
    del position["digests"]
    (step / "position" / "metadata").write_text(json.dumps(position))
    assert load_run(run).step == 12
    assert "12 has no digests.json: its files are not checked" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["config", "tokenizer"])
def test_a_step_of_another_run_is_refused(change, run, short):
    (run / "result.json").unlink()
    step = run / "checkpoints" / "12"
    content = json.loads((step / change / "metadata").read_bytes())
    if change == "config":
        content["seed"] = 7
    else:
        content["pieces"][-1] += "s"
    (step / change / "metadata").write_text(json.dumps(content))
    digests = json.loads((step / DIGESTS_FILE).read_bytes())
    del digests["sha256"][f"{change}/metadata"]
    (step / DIGESTS_FILE).write_text(json.dumps(digests))
    with pytest.raises(CheckpointError, match=r"12 is of a run with (seed=7|another tokenizer)"):
        train(short, run)
