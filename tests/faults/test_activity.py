"""Tests where the time of a run goes, and when a run counts as stalled."""

import json
import os
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import jax
import pytest

from bert_jax.faults import activity
from bert_jax.faults.activity import COMPILES, Activity, lost_seconds


@pytest.fixture
def clock(monkeypatch):
    """Replaces the clock of an Activity: `clock.now` are its seconds."""
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(activity, "time", clock)
    return clock


def test_the_seconds_of_each_kind_of_work_add_up(clock):
    run = Activity()
    run.go_on({"updates": 100.0, "start": 2.0})
    run.begin("updates")
    clock.now += 50
    run.begin("saving")
    assert run.seconds_of_last == 50
    clock.now += 1
    assert run.spent() == {"start": 2, "updates": 150, "saving": 1}
    run.lost = 147.0
    assert run.goodput()["share"] == 0.5


def test_progress_ends_a_stall_and_compilation_is_none(clock):
    run = Activity()
    clock.now += 50
    assert run.seconds_without_progress() == 50
    assert list(run.each([1, 2])) == [1, 2]
    assert run.seconds_without_progress() == 0
    seen = {}

    def traced(value):
        clock.now += 50
        assert COMPILES in run.place()
        seen["seconds"] = run.seconds_without_progress()
        return value

    jax.jit(traced).lower(1.0)
    assert seen.pop("seconds") == 0
    clock.now += 50
    code = compile("seen['seconds'] = ask()", "jax/_src/compiler.py", "exec")
    exec(code, {"ask": run.seconds_without_progress, "seen": seen})
    assert seen["seconds"] == 0
    clock.now += 50
    assert run.seconds_without_progress() == 50


def test_the_place_is_a_line_of_bert_jax_and_the_innermost_line():
    run = Activity()
    run.begin("evaluation")
    run.progress(7)
    assert run.place().startswith("at step 7, evaluation, faults/activity.py:")


@pytest.mark.parametrize(("step", "lost"), [(0, 50.0), (40, 20.0)], ids=["no-save", "saved"])
def test_lost_work_is_what_the_previous_process_did_after_its_last_save(step, lost, tmp_path):
    now = time.time()
    assert lost_seconds(tmp_path, 0) == 0
    began = datetime.fromtimestamp(now - 50, UTC).isoformat(timespec="seconds")
    (tmp_path / "environment.json").write_text(json.dumps({"time": began}))
    assert lost_seconds(tmp_path, 0) == 0  # it wrote no row
    (tmp_path / "metrics.jsonl").touch()
    os.utime(tmp_path / "metrics.jsonl", (now, now))
    if step:
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        os.utime(tmp_path / "checkpoints" / str(step), (now - 20, now - 20))
    assert lost_seconds(tmp_path, step) == pytest.approx(lost, abs=1)  # whole seconds of the start
