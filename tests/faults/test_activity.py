"""Tests where the time of a run goes, and when a run counts as stalled."""

import json
import os
import time
from datetime import UTC, datetime

import jax
import pytest

from bert_jax.faults.activity import COMPILES, Activity, lost_seconds


def test_the_seconds_of_each_kind_of_work_add_up():
    began, activity = time.monotonic(), Activity()
    activity.go_on({"updates": 100.0, "start": 2.0})
    activity.begin("updates")
    time.sleep(0.05)
    activity.begin("saving")
    assert activity.seconds_of_last >= 0.05
    spent = activity.spent()
    assert spent.keys() == {"start", "updates", "saving"} and spent["updates"] >= 100.05
    assert sum(spent.values()) == pytest.approx(102 + time.monotonic() - began, abs=0.02)
    activity.lost = 98.0
    assert activity.goodput()["share"] == pytest.approx(0.5, abs=0.01)


def test_progress_ends_a_stall_and_compilation_is_none():
    activity = Activity()
    time.sleep(0.05)
    assert activity.seconds_without_progress() >= 0.05
    assert list(activity.each([1, 2])) == [1, 2]
    assert activity.seconds_without_progress() < 0.05
    seen = {}

    def traced(value):
        time.sleep(0.05)
        assert COMPILES in activity.place()
        seen["seconds"] = activity.seconds_without_progress()
        return value

    jax.jit(traced).lower(1.0)
    assert seen.pop("seconds") < 0.05
    code = compile("wait()\nseen['seconds'] = ask()", "jax/_src/compiler.py", "exec")
    exec(
        code,
        {"wait": lambda: time.sleep(0.05), "ask": activity.seconds_without_progress, "seen": seen},
    )
    assert seen["seconds"] < 0.05


def test_the_place_is_a_line_of_bert_jax_and_the_innermost_line():
    activity = Activity()
    activity.begin("evaluation")
    activity.progress(7)
    assert activity.place().startswith("at step 7, evaluation, faults/activity.py:")


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
