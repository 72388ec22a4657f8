"""A signal ends a command with status 75, and the same command goes on as if it had not come."""

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from absl.testing import flagsaver
from commands import free_port, xla_flags
from same_run import assert_same_run

import bert_jax
from bert_jax import command
from bert_jax.config import override, to_json
from bert_jax.faults import signals
from bert_jax.training.train import train

ROOT = Path(bert_jax.__file__).parents[1]
SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


@pytest.fixture(scope="module")
def undisturbed(experiment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train(experiment, workdir)
    return workdir


# Step 6 is evaluated and saved anyway, step 8 ends a row, and step 9 lies within a row.
@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGTERM, 6),
        pytest.param(signal.SIGHUP, 8, marks=pytest.mark.slow),
        (signal.SIGINT, 9),
        pytest.param(signal.SIGTERM, 12, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_the_step_and_the_run_goes_on_bitwise(
    number, step, experiment, undisturbed, tmp_path, monkeypatch
):
    asked, steps = signals.Notice.reached, itertools.count(1)

    def send_once(notice):
        if next(steps) == step:
            os.kill(os.getpid(), number)
        return asked(notice)

    monkeypatch.setattr(signals.Notice, "reached", send_once)
    handlers = [signal.getsignal(one) for one in SIGNALS]
    if step < 12:  # after the last step, only the result is left to write
        with pytest.raises(signals.Interrupted, match=f"{number.name}: step {step} is saved"):
            train(experiment, tmp_path / "run")
        assert not (tmp_path / "run" / "result.json").exists()
        assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()
    assert [signal.getsignal(one) for one in SIGNALS] == handlers
    train(experiment, tmp_path / "run")
    assert_same_run(tmp_path / "run", undisturbed, step=12)


RECEIVES = (
    "import os, signal, sys\nfor number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):\n"
    "    signal.signal(number, signal.SIG_DFL)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""A parent that ignores a signal, such as nohup or a script's background, passes this on."""

PYTHON = [sys.executable, "-c", RECEIVES]


@pytest.fixture(autouse=True)
def signals_are_received():
    before = [signal.getsignal(number) for number in SIGNALS]
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def start(module, *arguments, devices=1, code=""):
    """Starts a command, or `code` in its place."""
    return subprocess.Popen(
        [*PYTHON, *(["-c", code] if code else ["-m", f"bert_jax.{module}"]), *map(str, arguments)],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": xla_flags(devices=devices),
            "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # no restart, which needs -m
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process):
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended before its signal:\n{process.communicate()[1]}")
        time.sleep(0.01)


@pytest.fixture(scope="module")
def long(experiment, tmp_path_factory):
    """The config.json of a run of 200 updates that saves after the last alone."""
    changes = {"training.steps": 200, "training.eval_every": 200, "training.checkpoint_every": 200}
    file = tmp_path_factory.mktemp("long") / "config.json"
    file.write_text(json.dumps(to_json(override(experiment, changes))))
    return file


def test_a_command_says_how_to_go_on(long, tmp_path):
    process = start("pretrain", f"--experiment={long}", f"--workdir={tmp_path / 'run'}")
    wait_for((tmp_path / "run" / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == signals.STATUS
    (saved,) = (int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    assert stderr.endswith(
        f"interrupted by SIGTERM: step {saved} is saved; the same command goes on from what was "
        "saved\n"
    )


def test_ctrl_c_while_a_command_imports_its_modules_prints_nothing(tmp_path):
    (tmp_path / "absl.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [*PYTHON, "-m", "bert_jax.pretrain"]
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = subprocess.run(command, env=os.environ | path, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


@pytest.fixture
def hooks(monkeypatch):
    """Restores what `raise_on_signals` changes beside the handlers of SIGNALS."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost(hooks, capfd):
    """Python ignores every exception in such a callback, and prints its traceback."""

    def interrupt(*_):
        gc.callbacks.remove(interrupt)
        os.kill(os.getpid(), signal.SIGTERM)

    signals.raise_on_signals()
    gc.callbacks.append(interrupt)
    with pytest.raises(signals.Interrupted, match="^interrupted by SIGTERM$"):
        gc.collect()
        time.sleep(5)
    assert capfd.readouterr().err == ""


def test_ctrl_c_that_was_ignored_does_not_end_a_save(hooks):
    """A command that a script started with & ignores Ctrl-C. SIGTERM then makes it save."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    signals.raise_on_signals()
    with pytest.raises(signals.Interrupted, match="SIGTERM"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_two_signals_at_once_print_nothing(hooks, monkeypatch):
    """Ctrl-C in a sweep reaches the run, too, and the sweep sends SIGTERM to it."""
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(error.exc_value))
    signals.raise_on_signals()
    with pytest.raises(signals.Interrupted):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.pthread_kill(threading.get_ident(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    signal.pthread_sigmask(signal.SIG_BLOCK, [])  # Python looks for more signals
    assert not printed


def test_a_suspended_generator_ends_before_the_command(hooks, monkeypatch):
    """At its end, Python would wait for the tasks of a pool whose generator is suspended."""
    ended = []

    def pool():
        try:
            yield
        finally:
            ended.append(True)

    def main():
        tasks = pool()
        for _ in tasks:
            raise signals.Interrupted("interrupted by SIGTERM")

    monkeypatch.setattr(sys, "argv", ["command"])
    with flagsaver.flagsaver(), pytest.raises(SystemExit):
        try:
            command.run(main)
        finally:
            assert ended


PROCESSES, STEPS_OF_BOTH, EVERY = 2, 72, 24

SLOWLY = """
import os, runpy, signal, sys, time
from bert_jax.faults.signals import Notice

reached = Notice.reached
Notice.reached = lambda notice: time.sleep(0.1) or reached(notice)
"""
"""jax tells the processes of a signal within some seconds, so each update waits for 0.1 s."""

START = """
sys.argv = ["pretrain", *sys.argv[1:]]
runpy.run_module("bert_jax.pretrain", run_name="__main__")
"""

PATCHED = """
from bert_jax.training import {module}

original = {module}.{name}

def interrupted(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGTERM)
    return original(*arguments, **keywords)

{module}.{name} = interrupted
"""
DURING = {
    "evaluation": PATCHED.format(module="train", name="evaluate"),
    "saving": PATCHED.format(module="checkpoint", name="save"),
}


@pytest.fixture(scope="module")
def of_both(experiment, tmp_path_factory):
    every = {"training.eval_every": EVERY, "training.checkpoint_every": EVERY}
    changes = {"training.steps": STEPS_OF_BOTH, "mesh.data": PROCESSES, **every}
    file = tmp_path_factory.mktemp("both") / "config.json"
    file.write_text(json.dumps(to_json(override(experiment, changes))))
    return file


def start_both(config, workdir, *arguments, code="", slowly=False):
    """Starts both processes; process 1 first runs `code`. `slowly` makes each update wait."""
    before = SLOWLY if code or slowly else ""
    port = free_port()
    return [
        start(
            "pretrain",
            *(f"--experiment={config}", f"--workdir={workdir}"),
            *(f"--coordinator=127.0.0.1:{port}", f"--process_count={PROCESSES}"),
            f"--process_index={index}",
            *arguments,
            code=before and f"{before}{code if index else ''}{START}",
        )
        for index in range(PROCESSES)
    ]


def end_of(processes, status):
    said = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [status] * PROCESSES, said
    return said


@pytest.fixture(scope="module")
def undisturbed_of_both(of_both, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    end_of(start_both(of_both, workdir), 0)
    return workdir


def steps_saved(workdir):
    return [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]


@pytest.mark.slow
def test_two_processes_survive_a_signal_and_a_kill(of_both, undisturbed_of_both, faults, tmp_path):
    """A signal to process 1, then kill -9 of process 0. The result is that of an undisturbed run.

    The next tests send other signals, at other times, and kill the other process.
    """
    faults[0] = 2
    processes = start_both(of_both, tmp_path, slowly=True)
    wait_for((tmp_path / "metrics.jsonl").exists, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    said = end_of(processes, signals.STATUS)
    saved = max(steps_saved(tmp_path))
    assert all(f"step {saved} is saved" in one for one in said) and saved < STEPS_OF_BOTH

    processes = start_both(of_both, tmp_path, slowly=True)
    rows = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    wait_for(lambda: (tmp_path / "metrics.jsonl").stat().st_mtime_ns > rows, processes[1])
    processes[0].kill()
    since = time.monotonic()
    lost = processes[1].communicate(timeout=60)[1]
    assert time.monotonic() - since < 30 and processes[1].returncode == signals.STATUS, lost
    assert lost.endswith("error: process 0 is lost: no sign of life for 14 seconds\n")
    assert "Traceback" not in lost and "Check failure" not in lost
    assert not (tmp_path / "result.json").exists()

    said = end_of(start_both(of_both, tmp_path, "--log_every_process"), 0)
    assert all(f"process {index}: " in one for index, one in enumerate(said))
    assert all("going on from step" in one for one in said)
    assert_same_run(tmp_path, undisturbed_of_both, step=STEPS_OF_BOTH)
    assert json.loads((tmp_path / "result.json").read_text())["goodput"]["seconds"]["lost"] >= 0


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_of_two_processes_saves_one_step_in_both(
    number, of_both, undisturbed_of_both, tmp_path
):
    processes = start_both(of_both, tmp_path, slowly=True)
    wait_for((tmp_path / "metrics.jsonl").exists, processes[0])
    processes[1].send_signal(number)
    said = end_of(processes, signals.STATUS)
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert all(f"step {saved} is saved" in one for one in said) and saved < STEPS_OF_BOTH

    # Again, before the first update of the resumed run.
    processes = start_both(of_both, tmp_path, slowly=True)
    for line in processes[0].stderr:
        if "going on from step" in line:
            break
    processes[0].send_signal(number)
    end_of(processes, signals.STATUS)
    end_of(start_both(of_both, tmp_path), 0)
    assert_same_run(tmp_path, undisturbed_of_both, step=STEPS_OF_BOTH)


@pytest.mark.long
@pytest.mark.parametrize("moment", ["evaluation", "saving"])
def test_a_signal_during_an_evaluation_or_a_save_saves_one_step_in_both(
    moment, of_both, undisturbed_of_both, tmp_path
):
    said = end_of(start_both(of_both, tmp_path, code=DURING[moment]), signals.STATUS)
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert all(f"step {saved} is saved" in one for one in said)
    assert EVERY <= saved < STEPS_OF_BOTH
    end_of(start_both(of_both, tmp_path), 0)
    assert_same_run(tmp_path, undisturbed_of_both, step=STEPS_OF_BOTH)


def start_slow_save(config, workdir):
    """Starts a run of one process. It prints SAVING two seconds before a checkpoint is written."""
    slow = (
        "import runpy, sys, time\nfrom bert_jax.faults import damage\n"
        "write = damage.write_digests\n"
        "damage.write_digests = lambda path: (print('SAVING', file=sys.stderr, flush=True), "
        "time.sleep(2), write(path))\n"
        f"sys.argv = ['pretrain', '--experiment={config}', '--workdir={workdir}']\n"
        "runpy.run_module('bert_jax.pretrain', run_name='__main__')\n"
    )
    return start("pretrain", code=slow)


def interrupt_while_saving(process, workdir, *signals):
    """Sends the first signal when the run has a row of metrics, and the others during its save."""
    first, *others = signals
    wait_for((workdir / "metrics.jsonl").exists, process)
    process.send_signal(first)
    for line in process.stderr:
        if line == "SAVING\n":
            break
    for number in others:
        process.send_signal(number)


@pytest.mark.slow
def test_a_second_signal_does_not_end_a_save(long, tmp_path):
    process = start_slow_save(long, tmp_path)
    interrupt_while_saving(process, tmp_path, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == signals.STATUS, stderr
    (saved,) = (int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert f"step {saved} is saved" in stderr


@pytest.mark.long
def test_a_second_ctrl_c_ends_the_process_at_once(long, tmp_path):
    process = start_slow_save(long, tmp_path)
    interrupt_while_saving(process, tmp_path, signal.SIGINT, signal.SIGINT)
    assert process.wait(timeout=1) == -signal.SIGINT
    process.communicate()
    assert not [path for path in (tmp_path / "checkpoints").glob("*") if path.name.isdigit()]
    process = start("pretrain", f"--experiment={long}", f"--workdir={tmp_path}")
    assert process.communicate(timeout=120) and process.returncode == 0


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_signal_to_a_sweep_saves_the_running_run_and_starts_no_other(number, long, tmp_path):
    file, workdir = tmp_path / "mine.py", tmp_path / "sweep"
    file.write_text(
        "import json\n\nfrom bert_jax.config import from_json\n"
        "from bert_jax.training.experiment import Experiment\n\n\ndef get_config() -> Experiment:\n"
        f"    return from_json(Experiment, json.loads({long.read_text()!r}))\n\n\n"
        "def sweep():\n    yield {'seed': 1}\n    yield {'seed': 2}\n"
    )
    process = start("sweep", f"--experiment={file}", f"--workdir={workdir}")
    wait_for(lambda: list(workdir.glob("*/metrics.jsonl")), process)
    process.send_signal(number)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == signals.STATUS
    (run,) = (path.parent for path in workdir.glob("*/config.json"))
    assert len(list((run / "checkpoints").glob("[0-9]*"))) == 1
    assert stderr.endswith(
        f"interrupted by {number.name}; the same command goes on from what was saved\n"
    )
    process = start("sweep", f"--experiment={file}", f"--workdir={workdir}")
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0 and "going on from step" in stderr
    assert len(list(workdir.glob("*/result.json"))) == 2


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_signal_to_prepare_keeps_finished_shards(number, experiment, tmp_path):
    changes = {
        "data.corpus": "embedded:sotu",
        "data.directory": str(tmp_path / "data"),
        "data.train_shards": 16,
        "data.dupe_factor": 5,
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(override(experiment, changes))))
    arguments = (f"--experiment={config}", "--workers=2")
    process = start("prepare", *arguments)
    wait_for(lambda: list((tmp_path / "data").glob("train-*.json")), process)
    sent = time.monotonic()
    process.send_signal(number)
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == signals.STATUS and time.monotonic() - sent < 10
    assert stderr.rstrip().endswith("the same command goes on from what was saved"), stderr
    finished = (tmp_path / "data").glob("train-*.json")  # the last file of a shard
    shards = {path: path.stat().st_mtime_ns for path in finished}
    assert 0 < len(shards) < 16
    process = start("prepare", *arguments)
    process.communicate(timeout=240)
    assert process.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


@pytest.mark.slow
def test_a_signal_to_finetune_keeps_finished_seeds(fine_tuning, undisturbed, tmp_path):
    def finetune():
        arguments = (f"--checkpoint={undisturbed}", f"--workdir={tmp_path / 'run'}", "--seeds=4")
        return start("finetune", f"--experiment={fine_tuning}", *arguments)

    process, first = finetune(), tmp_path / "run" / "seed-0" / "result.json"
    wait_for(first.exists, process)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == signals.STATUS, stderr
    assert not (tmp_path / "run" / "result.json").exists()
    written, process = first.stat().st_mtime_ns, finetune()
    process.communicate(timeout=240)
    assert process.returncode == 0 and first.stat().st_mtime_ns == written
    assert len(json.loads((tmp_path / "run" / "result.json").read_text())["seeds"]) == 4
