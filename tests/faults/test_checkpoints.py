"""A checkpoint whose files are not what was saved is never restored."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from orbax.checkpoint.checkpoint_managers import PreservationContext
from same_run import UNTIMED

from bert_jax import load_run
from bert_jax.config import override
from bert_jax.data.passport import load_passport
from bert_jax.errors import CheckpointError
from bert_jax.faults import signals
from bert_jax.faults.damage import DIGESTS_FILE, check_step, move_damaged, newest_whole_step
from bert_jax.training import train as training_module
from bert_jax.training.checkpoint import latest_step, restore, restore_description
from bert_jax.training.config import TrainingConfig
from bert_jax.training.manager import open_checkpoints, preservation
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


@pytest.fixture
def passport(experiment):
    return load_passport(experiment.data.directory)


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


@pytest.mark.parametrize("name", ["../12/state/_sharding", "/etc/passwd", "state/../../x", ".."])
def test_digests_name_no_file_outside_the_step(name, run):
    file = run / "checkpoints" / "12" / DIGESTS_FILE
    content = json.loads(file.read_bytes())
    content["sha256"][name] = "0" * 64
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is damaged .digests.json has changed"):
        check_step(run, 12)


def test_a_vocabulary_that_is_larger_than_the_model_is_refused(run):
    """Its ids would be beyond the token table, and jax gives the last row for them."""
    file = run / "checkpoints" / "12" / "tokenizer" / "metadata"
    tokenizer = json.loads(file.read_bytes())
    tokenizer["pieces"].append("one-more")
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="has 501 pieces; accepted: at most .* 500"):
        load_run(run, verify=False)


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


def other_content(path, rng):
    """Flips a bit of a file, or cuts it."""
    (flip_a_bit if rng.randrange(2) else cut)(path, rng)


def damages(step, *, count, seed):
    """Damages files of a step in turn, one at a time, and yields each file while it is damaged.

    The order of the files, the kind of damage and its place follow from the seed.
    """
    rng = random.Random(seed)
    files = sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)
    rng.shuffle(files)
    for number in range(count):
        file = files[number % len(files)]
        before = file.read_bytes()
        other_content(file, rng)
        yield file
        file.write_bytes(before)


WRITTEN_LATER = {"_CHECKPOINT_METADATA", "commit_success.txt"}
"""Files that orbax writes after the digests. Nothing that is restored comes from them."""


def test_two_hundred_damages_are_found_and_the_step_before_is_whole(run, capsys, faults):
    step, found = run / "checkpoints" / "12", 0
    for file in damages(step, count=200, seed=0):
        if file.parent == step and file.name in WRITTEN_LATER:
            continue
        assert newest_whole_step(run, on_damaged="previous") == 8, file
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "12 is damaged" in said, said
        found += 1
    faults[0] = found
    assert found >= 180
    check_step(run, 12)


@pytest.mark.slow
def test_load_run_refuses_two_hundred_damages(run, faults):
    """A file without digest is harmless: the same parameters are loaded."""
    wanted, refused, harmless = jax.tree.leaves(load_run(run).params), 0, []
    for file in damages(run / "checkpoints" / "12", count=200, seed=1):
        try:
            loaded = jax.tree.leaves(load_run(run).params)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(map(np.array_equal, loaded, wanted)), file
            harmless.append(file.name)
    faults[0] = refused
    assert refused >= 180 and set(harmless) <= WRITTEN_LATER


@pytest.mark.slow
def test_damage_of_a_step_without_digests_raises_no_other_error(run):
    """A step of an earlier version. Damage of an array may load without an error."""
    make_earlier(run / "checkpoints" / "12")
    (run / "result.json").unlink()
    refused = 0
    for file in damages(run / "checkpoints" / "12", count=50, seed=2):
        try:
            load_run(run)
        except CheckpointError as error:
            assert "\n" not in str(error) and str(run / "checkpoints" / "12") in str(error), file
            refused += 1
    assert refused >= 10


def make_earlier(step):
    """Turns a step into one that was saved before there were digests."""
    (step / DIGESTS_FILE).unlink()
    position = json.loads((step / "position" / "metadata").read_bytes())
    for name in ("digests", "written", "regular", "held_out"):
        del position[name]
    (step / "position" / "metadata").write_text(json.dumps(position))


@pytest.mark.parametrize("item", ["position", "config", "tokenizer", "passport"])
@pytest.mark.parametrize("content", ["", "[1]", "null", "{}", "[" * 100_000, None])
def test_an_item_of_an_earlier_step_that_is_damaged_or_missing(item, content, run, passport):
    step = run / "checkpoints" / "12"
    make_earlier(step)
    if content is None:
        shutil.rmtree(step / item)
    else:
        (step / item / "metadata").write_text(content)
    with contextlib.suppress(CheckpointError):
        assert load_run(run).step == 12
        # An empty position is one without digests; weights alone have no passport.
        assert (item, content) in [("position", "{}"), ("passport", "{}"), ("passport", None)]
    with open_checkpoints(run, read_only=True) as manager, pytest.raises(CheckpointError):
        if item == "passport":
            restore_description(manager, step=12)
            raise CheckpointError("a passport is not needed to go on")
        if item == "position":
            restore(manager, {}, step=12, passport=passport)
        else:
            restore_description(manager, step=12)
            load_run(run, verify=False)


def test_an_empty_directory_alone_does_not_block_a_run(run, capsys):
    """It holds nothing that could be lost, so the run starts from the beginning."""
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints" / "160").mkdir(parents=True)
    for name in ("0160", "x", "²", ".tmp"):
        (run / "checkpoints" / name).mkdir()
    (run / "checkpoints" / "170").write_text("a file")
    assert newest_whole_step(run, on_damaged="stop") == 0
    assert latest_step(run) == 0  # else `open_initial_weights` opens none
    move_damaged(run, newest_whole=0)
    assert (run / "damaged" / "160").is_dir()
    assert "the damaged checkpoint 160 is now" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        load_run(run)


def test_an_empty_directory_of_a_step_is_moved_aside(run):
    for _ in range(2):
        (run / "checkpoints" / "16").mkdir()
        assert newest_whole_step(run, on_damaged="previous") == 12
        move_damaged(run, newest_whole=12)
    assert {path.name for path in (run / "damaged").iterdir()} == {"16", "16-2"}


def test_a_step_of_an_earlier_version_opens_with_a_warning(run, capsys):
    step = run / "checkpoints" / "12"
    (step / DIGESTS_FILE).rename(run / DIGESTS_FILE)
    with pytest.raises(CheckpointError, match="digests.json is missing"):
        check_step(run, 12)
    (run / DIGESTS_FILE).rename(step / DIGESTS_FILE)
    make_earlier(step)
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


# ---- Which checkpoints are kept ---------------------------------------------------------------


class Saved(NamedTuple):
    step: int
    metrics: dict[str, Any]


def saved(step, loss=None, *, phase=1, regular=True):
    held_out = None if loss is None else {"phase": phase, "loss": loss}
    return Saved(step, {"regular": regular, "held_out": held_out})


@pytest.mark.parametrize(
    ("every", "steps", "kept"),
    [
        (None, [saved(2), saved(4), saved(6)], [4, 6]),
        (4, [saved(2), saved(4), saved(6), saved(8), saved(10)], [4, 8, 10]),
        (None, [saved(2, 3.0), saved(4, 5.0), saved(6, 4.0), saved(8, 4.5)], [2, 6, 8]),
        (None, [saved(2, 3.0), saved(4), saved(6), saved(8)], [2, 6, 8]),
        # Equal losses: the later step.
        (None, [saved(2, 3.0), saved(4, 3.0), saved(6, 4.0), saved(8, 4.5)], [4, 6, 8]),
        # The later phase has other examples.
        (None, [saved(2, 3.0), saved(4, 6.0, phase=2), saved(6), saved(8)], [4, 6, 8]),
        # A step that was saved because of a signal is kept only while it is the newest.
        (None, [saved(2), saved(4), saved(5, regular=False)], [2, 4, 5]),
        (None, [saved(2), saved(4), saved(5, regular=False), saved(6)], [4, 6]),
        (5, [saved(2), saved(4), saved(5, regular=False), saved(6)], [4, 6]),
        (None, [saved(1, regular=False)], [1]),
    ],
)
def test_the_newest_the_best_and_every_mth_checkpoint_are_kept(every, steps, kept):
    training = TrainingConfig(steps=10, keep_checkpoints=2, keep_every=every, checkpoint_every=1)
    decided = preservation(training).should_preserve(steps, context=PreservationContext())
    assert [one.step for one, keep in zip(steps, decided, strict=True) if keep] == kept


KEPT = {
    "training.checkpoint_every": 2,
    "training.eval_every": 2,
    "training.keep_checkpoints": 1,
    "training.keep_every": 4,
}


def steps_of(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.is_dir())


def test_an_interrupted_run_keeps_the_same_checkpoints(experiment, tmp_path, monkeypatch):
    """The losses of the evaluations are made up: the best step is 6."""
    made_up = {2: 5.0, 4: 4.0, 6: 1.0, 8: 3.0, 10: 3.0, 12: 3.0}
    evaluations = iter(made_up.values())

    def evaluate(*_):
        return dict.fromkeys(
            ("loss", "mlm_loss", "mlm_accuracy", "nsp_accuracy"), next(evaluations)
        )

    monkeypatch.setattr(training_module, "evaluate", evaluate)
    changed, workdir = override(experiment, KEPT), tmp_path / "run"
    asked, questions = signals.Notice.reached, itertools.count(1)

    def reached(notice):
        if next(questions) in (3, 7):
            os.kill(os.getpid(), signal.SIGTERM)
        return asked(notice)

    monkeypatch.setattr(signals.Notice, "reached", reached)
    for step in (3, 7):
        with pytest.raises(signals.Interrupted):
            train(changed, workdir)
        assert steps_of(workdir)[-1] == step
    result = train(changed, workdir)
    assert steps_of(workdir) == [4, 6, 8, 12]
    assert result["best_step"] == 6 and load_run(workdir, step="best").step == 6
    assert load_run(workdir).step == 12
    # A process that was killed after its last save may not have deleted step 10 yet.
    (workdir / "result.json").unlink()
    shutil.copytree(workdir / "checkpoints" / "8", workdir / "checkpoints" / "10")
    evaluations = iter([3.0])
    assert train(changed, workdir)["best_step"] == 6
    assert steps_of(workdir) == [4, 6, 8, 12]


def test_a_run_that_was_not_evaluated_has_no_best_step(run):
    for step in (8, 12):
        make_earlier(run / "checkpoints" / str(step))
    with pytest.raises(
        CheckpointError, match=r"no checkpoint that was evaluated; accepted: .8, 12"
    ):
        load_run(run, step="best")
