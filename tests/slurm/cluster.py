"""Starts Slurm on this machine: a controller, two nodes and munge, as processes in one directory.

Each node pretends to have 32 CPUs and 8 GPUs, so that jobs for such nodes can be submitted.
"""

import contextlib
import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from commands import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
"""Programs of Debian's packages slurm-wlm and munge."""

NODES = ("127.0.0.1", "127.0.0.2")
"""The nodes are named after their addresses, because no other name of theirs can be resolved."""

CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5  # a job waits so long before a restart
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
GresTypes=gpu
NodeName={nodes[0]} NodeAddr={nodes[0]} Port={ports[0]} CPUs=32 Gres=gpu:8
NodeName={nodes[1]} NodeAddr={nodes[1]} Port={ports[1]} CPUs=32 Gres=gpu:8
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""


def missing_programs() -> list[str]:
    """Returns the programs that are not installed."""
    path = os.environ["PATH"] + ":/usr/sbin"
    return [name for name in PROGRAMS if not shutil.which(name, path=path)]


@contextlib.contextmanager
def slurm(directory: Path) -> Iterator[dict[str, str]]:
    """Runs Slurm. Yields the environment of its commands.

    Raises:
      TimeoutError: the nodes are not ready after 30 seconds.
    """
    (directory / "state").mkdir()
    directory.chmod(0o755)
    for number in range(8):
        (directory / f"gpu{number}").touch()
    (directory / "gres.conf").write_text(f"Name=gpu File={directory}/gpu[0-7]\n")
    (directory / "key").write_bytes(os.urandom(128))
    (directory / "key").chmod(0o600)
    conf = directory / "slurm.conf"
    ports = [free_port() for _ in NODES]
    conf.write_text(
        CONF.format(
            port=free_port(), user=getpass.getuser(), directory=directory, nodes=NODES, ports=ports
        )
    )
    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    files = {name: f"{directory}/munge.{name}" for name in ("socket", "pid", "log", "seed")}
    munged = [
        *("munged", "--foreground", "--force", f"--key-file={directory}/key"),
        *(f"--socket={files['socket']}", f"--pid-file={files['pid']}"),
        *(f"--log-file={files['log']}", f"--seed-file={files['seed']}"),
    ]
    commands = [munged, ["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in NODES)]
    with contextlib.ExitStack() as stack:
        output = stack.enter_context((directory / "output").open("w"))
        for command in commands:
            daemon = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            stack.callback(_stop, daemon)
            if command is munged:
                _wait_for(lambda: Path(files["socket"]).exists(), directory)
        _wait_for(lambda: _say(environment, *_STATES).split() == ["idle"] * len(NODES), directory)
        try:
            yield environment
        finally:
            _say(environment, "scancel", f"--user={getpass.getuser()}")
            _wait_for(lambda: not _say(environment, "squeue", "--noheader"), directory)


def _stop(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    daemon.wait(timeout=30)


_STATES = ("sinfo", "--noheader", "--Node", "--format=%T")


def _say(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def _wait_for(condition, directory: Path) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            logs = [path.read_text() for path in (*directory.glob("*.log"), directory / "output")]
            raise TimeoutError("\n".join(logs))
        time.sleep(0.1)
