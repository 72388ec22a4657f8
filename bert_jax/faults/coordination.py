"""Connects the processes of a run through a service in a process of its own.

`jax.distributed.initialize` hosts this service in process 0. If process 0 is killed, jax then
aborts all other processes at once, with a long message. A service of its own outlives process 0, so
the other processes notice this loss as they notice any other (`heartbeat`).
"""

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bert_jax.errors import ConfigError
from bert_jax.faults import signals

SECONDS_TO_LIVE = 30
"""Time that the service outlives process 0. The other processes need it to read what happened."""

_READY = "ready"


def connect(
    coordinator: str, count: int, index: int, *, local_device_ids: list[int] | None
) -> None:
    """Connects this process, `index` of `count`, with the others at `coordinator`, HOST:PORT.

    Raises:
      ConfigError: process 0 cannot start the service at this port.
    """
    import jax

    if index == 0:
        _start_service(coordinator.rpartition(":")[2], count)
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        local_device_ids,
        coordinator_bind_address="127.0.0.1:0",  # of a service in process 0, which nobody uses
    )


def _start_service(port: str, count: int) -> None:
    import jax

    # The child sees the end of this process, whatever its cause, as the end of its stdin. It has
    # its own session, so it gets no signals of the terminal.
    child = subprocess.Popen(
        [sys.executable, "-m", __name__, port, str(count)],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a reader of this process's stderr must not wait for the child
        text=True,
        start_new_session=True,
    )
    assert child.stdout
    if child.stdout.readline().strip() != _READY:
        raise ConfigError(
            f"process 0 cannot connect the processes at port {port}; accepted: a free port"
        )

    @atexit.register
    def end() -> None:
        jax.distributed.shutdown()  # waits for the other processes
        child.kill()


def host_service(port: int, count: int) -> None:
    """Hosts the service until stdin ends, and then for SECONDS_TO_LIVE more."""
    from jaxlib import _jax  # pyright: ignore  # jax has no public access to the service

    for number in signals.SIGNALS:  # Slurm sends them to all processes of a task
        signal.signal(number, signal.SIG_IGN)
    service = _jax.get_distributed_runtime_service(f"[::]:{port}", count)
    print(_READY, flush=True)
    sys.stdin.read()
    time.sleep(SECONDS_TO_LIVE)
    del service


if __name__ == "__main__":
    host_service(int(sys.argv[1]), int(sys.argv[2]))
