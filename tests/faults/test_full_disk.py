"""A full disk ends a command with one line and status 2; finished files stay.

A process may not make a file longer than a limit. This needs no rights, and works on every disk.
"""

import json
import resource
import subprocess
import time

import pytest
from commands import free_port, start_code, start_command
from same_run import UNTIMED

from bert_jax import load_run
from bert_jax.config import override, to_json

LIMIT = 30_000
"""Bytes. The arrays of a checkpoint need more, and all other files of a run less."""


def run(module, *arguments, limit=None, stdin="", stdout=subprocess.PIPE):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit:  # a process inherits its parent's limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        process = start_command(module, *arguments, stdin=subprocess.PIPE, stdout=stdout)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    output, errors = process.communicate(stdin, timeout=120)
    return process.returncode, output, errors


def assert_full(result, *said):
    """Checks for status 2, and a last line on stderr that holds each of `said`."""
    status, _, errors = result
    assert status == 2 and "Traceback" not in errors, errors
    *_, last = errors.splitlines()
    assert last.startswith("error: ") and errors.count("error: ") == 1, errors
    for part in said:
        assert part in last


@pytest.fixture(scope="module")
def commanded(experiment, tmp_path_factory):
    """The config and the workdir of a run without a limit, which fills the compilation cache."""
    directory = tmp_path_factory.mktemp("commanded")
    (directory / "config.json").write_text(json.dumps(to_json(experiment)))
    status, _, errors = run(
        "pretrain", f"--experiment={directory}/config.json", f"--workdir={directory}/run"
    )
    assert status == 0, errors
    return directory / "config.json", directory / "run"


@pytest.mark.slow
def test_pretrain_ends_at_the_checkpoint_that_cannot_be_written(commanded, tmp_path):
    command = ("pretrain", f"--experiment={commanded[0]}", f"--workdir={tmp_path / 'run'}")
    assert_full(run(*command, limit=LIMIT), "a checkpoint cannot be written", "too large")
    assert run(*command)[0] == 0
    one, other = (
        json.loads((workdir / "result.json").read_text()) | UNTIMED
        for workdir in (commanded[1], tmp_path / "run")
    )
    assert one == other


LIMITED = """
import resource, runpy, sys
if {limited}:
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
sys.argv = ["pretrain", *{arguments!r}]
runpy.run_module("bert_jax.pretrain", run_name="__main__")
"""


@pytest.mark.parametrize(
    "full", [pytest.param(0, marks=pytest.mark.long), pytest.param(1, marks=pytest.mark.slow)]
)
def test_a_full_disk_of_one_of_two_processes_ends_both(full, experiment, tmp_path):
    """orbax alone would let the other process wait for ten minutes."""
    config, address = tmp_path / "config.json", f"--coordinator=127.0.0.1:{free_port()}"
    config.write_text(json.dumps(to_json(override(experiment, {"mesh.fsdp": 2}))))
    processes = []
    for index in range(2):
        arguments = [f"--experiment={config}", f"--workdir={tmp_path / 'run'}", address]
        arguments += ["--process_count=2", f"--process_index={index}"]
        code = LIMITED.format(limited=index == full, limit=LIMIT, arguments=arguments)
        processes.append(start_code(code, devices=1))
    while not list((tmp_path / "run" / "checkpoints").glob("6*")):
        assert processes[0].poll() is None, processes[0].communicate()[1]
        time.sleep(0.01)
    began = time.monotonic()
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert time.monotonic() - began < 30 and [one.returncode for one in processes] == [2, 2], said
    assert "Traceback" not in "".join(said)
    lines = [one.splitlines()[-1] for one in said]
    assert "a checkpoint cannot be written" in lines[full] and "too large" in lines[full]
    assert lines[1 - full].startswith(f"error: process {full} has ended: /")
    assert "a checkpoint cannot be written" in lines[1 - full]


@pytest.mark.parametrize(
    "to",
    [
        pytest.param("bert_jax", marks=pytest.mark.slow),
        pytest.param("huggingface", marks=pytest.mark.long),
    ],
)
def test_convert_leaves_nothing_behind(to, commanded, tmp_path):
    output = tmp_path / "converted"
    command = ("convert", f"--source={commanded[1]}", f"--output={output}", f"--to={to}")
    assert_full(run(*command, limit=LIMIT), "oo large", "written")
    assert list(tmp_path.iterdir()) == []
    assert run(*command)[0] == 0 and load_run(output).step == 0


LATE = """
import runpy, sys, threading
from bert_jax.errors import CheckpointError
from bert_jax.runs import save

def fail(run, directory, to):
    make = lambda: (directory / "state").mkdir(parents=True)
    threading.Timer(0.2, make).start()
    raise CheckpointError("the disk is full")

save.save_run = fail
sys.argv[1:] = {arguments}
runpy.run_module("bert_jax.convert", run_name="__main__", alter_sys=True)
"""
"""The program of convert, in which a write still runs, and makes its directory, after an error."""


@pytest.mark.slow
def test_convert_leaves_nothing_behind_if_another_write_still_runs(commanded, tmp_path):
    arguments = [f"--source={commanded[1]}", f"--output={tmp_path / 'converted'}", "--to=bert_jax"]
    process = start_code(LATE.format(arguments=arguments), devices=1)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2 and errors.endswith("error: the disk is full\n"), errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("predict", marks=pytest.mark.slow),
        pytest.param("evaluate", marks=pytest.mark.long),
    ],
)
def test_output_that_cannot_be_written_ends_the_command(module, commanded, experiment):
    arguments = {"predict": "--task=embed", "evaluate": f"--data={experiment.data.directory}"}
    command = (module, f"--run={commanded[1]}", arguments[module])
    with open("/dev/full", "w") as full:
        result = run(*command, stdin="a text\nanother text\n", stdout=full)
    assert_full(result, "standard output", "No space left on device")
