"""`sbatch launch/slurm.sbatch` trains on two nodes, and `sweep --launcher=slurm` submits an array.

Two clusters on one machine disturb each other, so all tests of Slurm share one, in one file.
"""

import csv
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import missing_programs, slurm
from commands import xla_flags
from same_run import assert_same_run

import bert_jax
from bert_jax.config import load_experiment, override, to_json

ROOT = Path(bert_jax.__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"missing: {', '.join(missing_programs())}; apt-get install slurm-wlm munge",
    ),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of the commands of a Slurm with two nodes."""
    with slurm(tmp_path_factory.mktemp("slurm")) as variables:
        variables |= {
            "VIRTUAL_ENV": sys.prefix,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": xla_flags(devices=1),
        }
        yield variables


@pytest.fixture
def sbatch(environment):
    """Submits launch/slurm.sbatch. Returns a function to follow the job."""

    def run(*command):
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(*arguments, log):
        command = ("sbatch", "--parsable", f"--output={log}", "launch/slurm.sbatch")
        return run(*command, *arguments).strip()

    return submit, run


@pytest.fixture
def quick_start(experiment, tmp_path):
    """The file of the quick start on fewer texts, with 200 updates and a smaller vocabulary."""
    changes = {
        "model.vocab_size": experiment.model.vocab_size,
        "optimizer.warmup_steps": 20,
        "training.steps": 200,
        "training.log_every": 10,
        "training.eval_every": 100,
        "training.checkpoint_every": 100,
    }
    whole = load_experiment(f"{ROOT}/experiments/quickstart.py")
    small = override(dataclasses.replace(whole, data=experiment.data), changes)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(small)))
    return file


def test_a_job_that_gets_a_signal_is_submitted_again_and_ends_like_any_other(
    quick_start, sbatch, tmp_path
):
    submit, run = sbatch
    undisturbed, signalled = tmp_path / "undisturbed", tmp_path / "signalled"
    for workdir in (undisturbed, signalled):
        log = tmp_path / f"{workdir.name}.log"
        job = submit(f"--experiment={quick_start}", f"--workdir={workdir}", log=log)
        sent = workdir is undisturbed
        deadline = time.monotonic() + 300
        while "JobState=COMPLETED" not in (state := run("scontrol", "show", "job", job)):
            assert time.monotonic() < deadline and "=FAILED" not in state, log.read_text()
            if not sent and (workdir / "metrics.jsonl").exists():
                run("scancel", "--signal=TERM", job)
                sent = True
            time.sleep(0.2)
    assert "Restarts=1" in state
    said = log.read_text()
    assert "going on from step" in said and "Traceback" not in said, said
    recorded = json.loads((signalled / "environment.json").read_text())
    assert recorded["processes"] == 2 and len(recorded["earlier"]) == 1
    assert_same_run(undisturbed, signalled, step=200)


SWEEP = """
import json
from bert_jax.config import from_json
from bert_jax.training.experiment import Experiment

def get_config():
    return from_json(Experiment, json.loads({base!r}))

def sweep():
    for rate in (1e-3, 1e30):
        for seed in (0, 1):
            if rate < 1 or seed:
                yield {{"optimizer.learning_rate": rate, "seed": seed}}
"""


def wait_for(workdir, environment, *, count):
    """Waits until `count` runs in a directory have ended, and no job is left in the queue."""
    deadline = time.monotonic() + 240
    while len([*workdir.glob("*/result.json"), *workdir.glob("*/error.txt")]) < count or (
        subprocess.run(["squeue", "-h"], env=environment, capture_output=True).stdout
    ):
        logs = [log.read_text() for log in workdir.glob("slurm-*.log")]
        assert time.monotonic() < deadline, logs
        time.sleep(0.5)


def test_an_array_makes_each_run_once(environment, experiment, tmp_path):
    """Two runs end well, and one fails. Until they end, the same command submits nothing."""
    file, workdir = tmp_path / "sweep.py", tmp_path / "a sweep"
    file.write_text(SWEEP.format(base=json.dumps(to_json(experiment))))
    command = [sys.executable, "-m", "bert_jax.sweep", f"--experiment={file}"]
    command += [f"--workdir={workdir}", "--launcher=slurm", "--sbatch=--cpus-per-task=1"]

    def sweep(*more):
        options = {"env": environment, "capture_output": True, "text": True, "check": False}
        return subprocess.run([*command, *more], **options)

    refused = sweep("--sbatch=--partition=none")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith("error: sbatch failed: ")
    first = sweep("--parallel=2")
    assert first.returncode == 0 and "submitted 3 runs as job" in first.stdout, first.stderr
    again = sweep()
    assert again.returncode == 0 and "no job is submitted" in again.stdout, again.stderr
    wait_for(workdir, environment, count=3)
    results = {path: path.stat().st_mtime_ns for path in workdir.glob("*/result.json")}
    (error,) = workdir.glob("*/error.txt")
    assert "learning_rate" in error.read_text()
    third = sweep()
    assert "2 done, 1 failed" in third.stdout and "submitted 1 runs" in third.stdout
    rows = list(csv.DictReader((workdir / "summary.csv").open()))
    assert sorted(row["status"] for row in rows) == ["done", "done", "failed"]
    assert {path: path.stat().st_mtime_ns for path in results} == results


TUNED = """

def sweep():
    return [{"model.num_layers": 1}]

def tune_over():
    return [{"optimizer.learning_rate": rate} for rate in (1e-3, 1e30)]
"""


@pytest.mark.long
def test_the_trials_of_a_point_come_before_its_run(environment, experiment, tmp_path):
    """The first command submits the trials. The second chooses one, and submits the run."""
    file, workdir = tmp_path / "sweep.py", tmp_path / "sweep"
    file.write_text(SWEEP.format(base=json.dumps(to_json(experiment))) + TUNED)
    command = [sys.executable, "-m", "bert_jax.sweep", f"--experiment={file}"]
    command += [f"--workdir={workdir}", "--launcher=slurm", "--sbatch=--cpus-per-task=1"]
    for submitted, directory in ((2, workdir / "tuning"), (1, workdir)):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert f"submitted {submitted} runs as job" in done.stdout
        wait_for(directory, environment, count=submitted)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "submitted" not in done.stdout, done.stderr
    (row,) = csv.DictReader((workdir / "summary.csv").open())
    assert row["status"] == "done"
    (choice,) = json.loads((workdir / "tuning.json").read_text()).values()
    assert choice["choice"] == {"optimizer.learning_rate": 1e-3}
    assert sorted(choice["trials"].values(), key=str)[1] is None
