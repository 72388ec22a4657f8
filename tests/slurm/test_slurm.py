"""`sbatch launch/slurm.sbatch` trains on two nodes, and a signal does not change what it trains."""

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
def sbatch(tmp_path_factory):
    """Submits launch/slurm.sbatch to Slurm with two nodes. Returns a function to follow the job."""
    directory = tmp_path_factory.mktemp("slurm")
    with slurm(directory) as environment:
        environment |= {
            "VIRTUAL_ENV": sys.prefix,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": xla_flags(devices=1),
        }

        def run(*command):
            done = subprocess.run(
                command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        def submit(*arguments, log):
            command = ("sbatch", "--parsable", f"--output={log}", "launch/slurm.sbatch")
            return run(*command, *arguments).strip()

        yield submit, run


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
