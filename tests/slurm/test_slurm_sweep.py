"""`sweep --launcher=slurm` makes each run in a job of an array."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import missing_programs, slurm
from commands import xla_flags

import bert_jax
from bert_jax.config import to_json

ROOT = Path(bert_jax.__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"missing: {', '.join(missing_programs())}; apt-get install slurm-wlm munge",
    ),
]

FILE = """
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


def test_an_array_makes_each_run_once(experiment, tmp_path):
    """Two runs end well, and one fails. Until they end, the same command submits nothing."""
    (tmp_path / "slurm").mkdir()
    file, workdir = tmp_path / "sweep.py", tmp_path / "a sweep"
    file.write_text(FILE.format(base=json.dumps(to_json(experiment))))
    command = [sys.executable, "-m", "bert_jax.sweep", f"--experiment={file}"]
    command += [f"--workdir={workdir}", "--launcher=slurm", "--sbatch=--cpus-per-task=1"]
    with slurm(tmp_path / "slurm") as environment:
        environment |= {"PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags(devices=1)}

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
        deadline = time.monotonic() + 240
        while len([*workdir.glob("*/result.json"), *workdir.glob("*/error.txt")]) < 3:
            logs = [log.read_text() for log in workdir.glob("slurm-*.log")]
            assert time.monotonic() < deadline, logs
            time.sleep(0.5)
        results = {path: path.stat().st_mtime_ns for path in workdir.glob("*/result.json")}
        (error,) = workdir.glob("*/error.txt")
        assert "learning_rate" in error.read_text()
        while subprocess.run(["squeue", "-h"], env=environment, capture_output=True).stdout:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        third = sweep()
        assert "2 done, 1 failed" in third.stdout and "submitted 1 runs" in third.stdout
    rows = list(csv.DictReader((workdir / "summary.csv").open()))
    assert sorted(row["status"] for row in rows) == ["done", "done", "failed"]
    assert {path: path.stat().st_mtime_ns for path in results} == results
