"""If one of several processes ends with an error, all end soon, each with one line about it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import free_port

import bert_jax
from bert_jax.config import override, to_json

ROOT = Path(bert_jax.__file__).parents[1]

PRETRAIN = """
import runpy, sys
from bert_jax.errors import DataError
from bert_jax.training import train

class Broken:
    def __call__(self, *arguments):
        raise {error}

if {fails}:
    train.evaluate = Broken()
sys.argv = ["pretrain", *{arguments!r}]
runpy.run_module("bert_jax.pretrain", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        ('DataError("the disk is gone")', "the disk is gone", 2),
        ('ZeroDivisionError("a bug")', "ZeroDivisionError('a bug')", 1),
    ],
    ids=["typed", "untyped"],
)
def test_an_error_in_one_process_ends_all(failing, error, said, status, experiment, tmp_path):
    changes = {"mesh.data": 8, "training.steps": 400, "training.eval_every": 3}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(override(experiment, changes))))
    port = free_port()
    processes = []
    for index in range(2):
        arguments = [
            *(f"--experiment={config}", f"--workdir={tmp_path / 'run'}"),
            *(f"--coordinator=127.0.0.1:{port}", "--process_count=2", f"--process_index={index}"),
        ]
        code = PRETRAIN.format(error=error, fails=index == failing, arguments=arguments)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                env=os.environ
                | {
                    "PYTHONPATH": str(ROOT),
                    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
                    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # no restart, which needs -m
                },
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    processes[failing].wait(timeout=120)
    ended = time.monotonic()
    outputs = [process.communicate(timeout=60)[1] for process in processes]
    assert time.monotonic() - ended < 30
    assert [process.returncode for process in processes] == [status] * 2, outputs
    assert ("a bug" if status == 1 else said) in outputs[failing].splitlines()[-1]
    assert "has ended" not in outputs[failing]
    last = outputs[1 - failing].splitlines()[-1]
    assert last == f"error: process {failing} has ended: {said}"
