"""A long run does not need more and more memory, files, threads or compilations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bert_jax
from bert_jax.config import override, to_json

ROOT = Path(bert_jax.__file__).parents[1]

WATCHED = """
import json, os, runpy, sys, threading
import jax
from bert_jax.training.writer import RunWriter

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if name.endswith("backend_compile_duration") else 0
)
write, page = RunWriter.write, os.sysconf("SC_PAGE_SIZE")

def measure(writer, step, row):
    write(writer, step, row)
    resident = int(open("/proc/self/statm").read().split()[1]) * page
    counts = len(os.listdir("/proc/self/fd")), threading.active_count(), len(compiled)
    print(json.dumps([step, resident, *counts]), flush=True)

RunWriter.write = measure
sys.argv = ["pretrain", *sys.argv[1:]]
runpy.run_module("bert_jax.pretrain", run_name="__main__")
"""


@pytest.mark.slow
def test_a_long_run_needs_no_more_and_more(two_phases, request, faults, tmp_path):
    steps = request.config.getoption("--soak_steps")
    faults[0] = 0
    every = {"log_every": 10, "eval_every": 100, "checkpoint_every": 50, "keep_checkpoints": 2}
    changes = {f"training.{name}": value for name, value in every.items()}
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(to_json(override(two_phases, changes | {"training.steps": steps})))
    )
    process = subprocess.run(
        [
            *(sys.executable, "-c", WATCHED),
            *(f"--experiment={config}", f"--workdir={tmp_path / 'run'}"),
        ],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_ENABLE_COMPILATION_CACHE": "false",  # every compilation is counted
            "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # no restart, which needs -m
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    measured = [json.loads(line) for line in process.stdout.splitlines() if line[0] == "["]
    first_phase = [row for row in measured if row[0] <= steps - two_phases.phases[0].steps]
    fifth = len(first_phase) // 5
    _, _, *before, _ = zip(*first_phase[fifth : 2 * fifth], strict=True)
    _, resident, *after, compiled = zip(*first_phase[-fifth:], strict=True)
    print(f"resident memory {min(resident)} to {max(resident)} bytes in the last fifth")
    assert max(resident) <= 1.02 * min(resident)
    assert len(set(compiled)) == 1, "a program was compiled again"
    # A save opens files and threads for a moment. A leak would raise the smallest number, too.
    files, threads = zip(map(min, before), map(min, after), strict=True)
    print(f"files {files[0]} to {files[1]}, threads {threads[0]} to {threads[1]}")
    assert files[1] <= files[0] and threads[1] <= threads[0]
