"""A sweep does each run once, whatever interrupts it, and no run takes another down."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from bert_jax import config as configs
from bert_jax.errors import ConfigError
from bert_jax.sweep import expand, status

FILE = """
from bert_jax.config import from_json
from bert_jax.training.experiment import Experiment
import json

def get_config():
    return from_json(Experiment, json.loads({base!r}))

def sweep_rate():
    for rate in {rates}:
        yield {{"optimizer.learning_rate": rate}}

def sweep_seed():
    for seed in {seeds}:
        yield {{"seed": seed}}
"""


def write_file(path, experiment, *, rates, seeds):
    base = json.dumps(configs.to_json(experiment))
    path.write_text(FILE.format(base=base, rates=rates, seeds=seeds))
    return path


def start(file, workdir, **options):
    command = ["-m", "bert_jax.sweep", f"--experiment={file}", f"--workdir={workdir}"]
    return subprocess.Popen([sys.executable, *command], text=True, **options)


def summary(workdir):
    return list(csv.DictReader((workdir / "summary.csv").open()))


def test_sweeps_combine_as_a_product_and_equal_runs_are_one(experiment):
    points = expand(
        experiment,
        [
            [{"optimizer.learning_rate": 1e-3}, {"optimizer.learning_rate": 2e-3}],
            [{"seed": 0}, {"seed": 1}, {"seed": "1"}],
        ],
    )
    assert [(p.experiment.optimizer.learning_rate, p.experiment.seed) for p in points] == [
        (1e-3, 0),
        (1e-3, 1),
        (2e-3, 0),
        (2e-3, 1),
    ]
    assert len({point.id for point in points}) == 4


def test_a_value_may_be_a_whole_sub_config(experiment):
    model = configs.override(experiment.model, {"num_layers": 1})
    (point,) = expand(experiment, [[{"model": model}]])
    assert point.experiment.model.num_layers == 1


def test_a_point_that_does_not_fit_is_refused_before_any_runs(experiment):
    with pytest.raises(ConfigError, match="learning_rat'"):
        expand(experiment, [[{"seed": 1}, {"optimizer.learning_rat": 1e-3}]])


def test_a_sweep_killed_in_the_middle_does_each_run_exactly_once(experiment, tmp_path):
    """Killed with its group after the first run; the second start leaves that one as it was."""
    file = write_file(tmp_path / "four.py", experiment, rates=[1e-3, 2e-3], seeds=[0, 1])
    workdir = tmp_path / "sweep"
    sweep = start(file, workdir, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(workdir.glob("*/result.json")):
        assert sweep.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    first = {file: file.stat().st_mtime_ns for file in workdir.glob("*/result.json")}
    assert 1 <= len(first) < 4

    again = start(file, workdir, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = again.communicate(timeout=300)[1]
    assert again.returncode == 0, errors
    rows = summary(workdir)
    assert [row["status"] for row in rows] == ["done"] * 4
    assert len({(row["optimizer.learning_rate"], row["seed"]) for row in rows}) == 4
    for file, changed in first.items():
        assert file.stat().st_mtime_ns == changed
    for row in rows:
        run = workdir / row["id"]
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
        assert all(before < after for before, after in pairwise(steps))
        assert steps[-1] == experiment.training.steps
        assert float(row["mlm_loss"]) == json.loads((run / "result.json").read_text())["mlm_loss"]
    assert (workdir / "summary.md").read_text().count("\n") == 2 + 4


def test_a_run_that_fails_does_not_end_the_others(experiment, tmp_path):
    file = write_file(tmp_path / "two.py", experiment, rates=[1e30, 1e-3], seeds=[0])
    workdir = tmp_path / "sweep"
    sweep = start(file, workdir, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = sweep.communicate(timeout=300)[1]
    assert sweep.returncode == 2
    assert errors.splitlines()[-1].startswith("error: 1 of 2 runs failed")
    failed, done = summary(workdir)
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert "learning_rate" in (workdir / failed["id"] / "error.txt").read_text()


def test_the_status_of_a_directory(tmp_path):
    assert status(tmp_path / "none") == "to do"
    for name, word in (("config.json", "begun"), ("error.txt", "failed"), ("result.json", "done")):
        (tmp_path / name).touch()
        assert status(tmp_path) == word
