"""If one of several processes fails, is killed or stalls, all end soon, with a line about it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from commands import free_port, start_code

from bert_jax.config import override, to_json
from bert_jax.errors import ConfigError, TemporaryError
from bert_jax.faults.rendezvous import wait_for_processes
from bert_jax.faults.signals import SIGNALS, STATUS

PRETRAIN = """
import runpy, sys, time
from bert_jax.errors import DataError
from bert_jax.training import train
{evaluate}
sys.argv = ["pretrain", *{arguments!r}]
runpy.run_module("bert_jax.pretrain", run_name="__main__")
"""

ERROR = """
def evaluate(*arguments):
    raise {error}
train.evaluate = evaluate
"""

UNTYPED = ('ZeroDivisionError("a bug")', "ZeroDivisionError('a bug')", 1)

SLOW_COMPILER = """
compile_update = train.compile_update
train.compile_update = lambda *arguments: (time.sleep(40), compile_update(*arguments))[1]
"""

STALL = """
train.evaluate = lambda *arguments: time.sleep(100)
"""


def start(config, workdir, *arguments, evaluate=""):
    """Starts a process of pretraining. `evaluate` is code that replaces the evaluation."""
    arguments = [f"--experiment={config}", f"--workdir={workdir}", *arguments]
    code = PRETRAIN.format(evaluate=evaluate, arguments=arguments)
    return start_code(code, devices=1)


def start_both(config, workdir, *arguments, evaluates=("", "")):
    port = free_port()
    return [
        start(
            config,
            workdir,
            *(f"--coordinator=127.0.0.1:{port}", "--process_count=2", f"--process_index={index}"),
            *arguments,
            evaluate=evaluate,
        )
        for index, evaluate in enumerate(evaluates)
    ]


@pytest.mark.parametrize(
    ("failing", "error", "said", "status"),
    [
        pytest.param(0, 'DataError("no disk")', "no disk", 2, marks=pytest.mark.long),
        pytest.param(1, 'DataError("no disk")', "no disk", 2, marks=pytest.mark.long),
        pytest.param(0, *UNTYPED, marks=pytest.mark.long),
        pytest.param(1, *UNTYPED, marks=pytest.mark.slow),
    ],
    ids=["typed-0", "typed-1", "untyped-0", "untyped-1"],
)
def test_an_error_in_one_process_ends_all(failing, error, said, status, experiment, tmp_path):
    changes = {"mesh.data": 2, "training.steps": 400, "training.eval_every": 3}
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(override(experiment, changes))))
    evaluates = [ERROR.format(error=error) if index == failing else "" for index in range(2)]
    processes = start_both(config, tmp_path / "run", evaluates=evaluates)
    processes[failing].wait(timeout=120)
    ended = time.monotonic()
    outputs = [process.communicate(timeout=60)[1] for process in processes]
    assert time.monotonic() - ended < 30
    assert [process.returncode for process in processes] == [status] * 2, outputs
    assert ("a bug" if status == 1 else said) in outputs[failing].splitlines()[-1]
    assert "has ended" not in outputs[failing]
    last = outputs[1 - failing].splitlines()[-1]
    assert last == f"error: process {failing} has ended: {said}"


@pytest.fixture
def config_of(experiment, tmp_path):
    def write(**changes):
        file = tmp_path / "config.json"
        fields = {name.replace("__", "."): value for name, value in changes.items()}
        file.write_text(json.dumps(to_json(override(experiment, fields))))
        return file

    return write


def steps_saved(workdir):
    return [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_both_go_on_when_they_are_started_again(
    killed, config_of, tmp_path
):
    every = {"training__checkpoint_every": 20, "training__eval_every": 60}
    config, run = config_of(mesh__data=2, training__steps=60, **every), tmp_path / "run"
    processes = start_both(config, run)
    while not steps_saved(run):
        assert processes[killed].poll() is None, processes[killed].communicate()[1]
        time.sleep(0.01)
    processes[killed].kill()
    since = time.monotonic()
    said = processes[1 - killed].communicate(timeout=60)[1]
    assert time.monotonic() - since < 30
    assert processes[1 - killed].returncode == STATUS, said
    last = said.splitlines()[-1]
    assert last == f"error: process {killed} is lost: no sign of life for 14 seconds"
    assert "Traceback" not in said and "Check failure" not in said

    processes = start_both(config, run, "--log_every_process")
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert all(f"process {index}: " in one for index, one in enumerate(said))
    assert all("going on from step" in one for one in said)
    assert json.loads((run / "result.json").read_text())["goodput"]["seconds"]["lost"] >= 0


@pytest.mark.slow
def test_one_of_two_processes_prints_the_result(two_phases, two_phase_run, tmp_path, capfd):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_json(two_phases)))
    processes = start_both(config, two_phase_run[0])  # the run is complete
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert capfd.readouterr().out.count("held-out mlm loss") == 1


@pytest.mark.long
@pytest.mark.parametrize("silent", [0, 1])
def test_a_process_that_does_not_answer_ends_the_other(silent, config_of, tmp_path):
    """A stopped process is as silent as a machine without power or network."""
    processes = start_both(config_of(mesh__data=2, training__steps=4000), tmp_path / "run")
    while not steps_saved(tmp_path / "run"):
        assert processes[silent].poll() is None, processes[silent].communicate()[1]
        time.sleep(0.01)
    processes[silent].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    said = processes[1 - silent].communicate(timeout=60)[1]
    processes[silent].kill()
    assert time.monotonic() - stopped < 30
    assert processes[1 - silent].returncode == STATUS, said
    assert said.splitlines()[-1] == (
        f"error: process {silent} is lost: no sign of life for 14 seconds"
    )


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named(config_of, tmp_path):
    arguments = ("--process_count=3", "--process_index=0", "--start_timeout=1")
    coordinator = f"127.0.0.1:{free_port()}"
    process = start(config_of(), tmp_path / "run", f"--coordinator={coordinator}", *arguments)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == STATUS and not (tmp_path / "run").exists()
    (line,) = said.splitlines()
    assert line.startswith(
        f"error: process 1, 2 of 3 has not come to process 0 at {coordinator} within 1 s"
    )


def test_the_service_of_a_run_goes_on_after_signals():
    """Slurm sends a signal to all processes of a task, also to the service of process 0."""
    command = [sys.executable, "-m", "bert_jax.faults.coordination", str(free_port()), "1"]
    service = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with service:
        assert service.stdout.readline() == "ready\n"
        for number in SIGNALS:
            service.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            service.wait(timeout=0.3)
        service.kill()


def test_the_service_finds_the_libraries_of_process_0():
    """On some clusters, only the variable PYTHONPATH or the process itself names them."""
    libraries = [path for path in sys.path if path]
    code = f"""
import sys
sys.path += {libraries}
from bert_jax.faults import coordination
coordination._start_service("{free_port()}", 1)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys._base_executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_processes_start_together():
    coordinator, began = f"127.0.0.1:{free_port()}", []

    def come(index):
        wait_for_processes(coordinator, 3, index, timeout=20)
        began.append(time.monotonic())

    threads = [threading.Thread(target=come, args=(index,)) for index in (2, 0)]
    for thread in threads:
        thread.start()
    port, stranger = int(coordinator[10:]), socket.socket()
    while stranger.connect_ex(("127.0.0.1", port)):
        time.sleep(0.01)  # process 0 does not listen yet
    with stranger:
        stranger.sendall(b"GET / HTTP/1.0")
    time.sleep(0.1)
    assert not began
    come(1)
    for thread in threads:
        thread.join()
    assert len(began) == 3
    socket.create_server(("127.0.0.1", port)).close()  # it is free again


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_comes_alone_does_not_wait_forever(index):
    coordinator = f"127.0.0.1:{free_port()}"
    with pytest.raises(TemporaryError, match=f"process 1 of 2 has .*{coordinator}"):
        wait_for_processes(coordinator, 2, index, timeout=0.2)


def test_a_port_in_use_and_an_address_without_a_port_are_refused():
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at port {port} .*a free port"):
            wait_for_processes(f"127.0.0.1:{port}", 2, 0, timeout=1)
    for wrong in ("nosuchhost", ":80", "host:", "host:port", "host:0", "host:99999"):
        with pytest.raises(ConfigError, match="accepted: HOST:PORT, such as"):
            wait_for_processes(wrong, 2, 1, timeout=1)


@pytest.mark.slow
def test_a_run_that_stalls_ends_and_says_where_it_stands(config_of, tmp_path):
    config = config_of(training__stall_seconds=3.0, training__checkpoint_every=2)
    process = start(config, tmp_path / "run", evaluate=STALL)
    said = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == STATUS
    assert said[-1].startswith("error: no progress for 3 seconds (training.stall_seconds)")
    assert said[-2].startswith("the process stands at step ") and ", evaluation, " in said[-2]
    assert steps_saved(tmp_path / "run")


@pytest.mark.long
def test_a_process_that_compiles_is_waited_for(config_of, tmp_path):
    """The other process may have its program in the cache. A program waits for 30 seconds only."""
    config = config_of(mesh__data=2)
    processes = start_both(config, tmp_path / "run", evaluates=("", SLOW_COMPILER))
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said


@pytest.mark.long
def test_one_of_two_processes_that_stalls_ends_both(config_of, tmp_path):
    config = config_of(mesh__data=2, training__stall_seconds=15.0)
    processes = start_both(config, tmp_path / "run", evaluates=("", STALL))
    said = [process.communicate(timeout=120)[1].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [STATUS] * 2, "\n".join(said[0])
    for lines in said:
        assert any("no progress for 15 seconds (training.st" in line for line in lines), said
    places = [line for lines in said for line in lines if " stands " in line]
    assert {line.partition(" stands")[0] for line in places} == {"process 0", "process 1"}
