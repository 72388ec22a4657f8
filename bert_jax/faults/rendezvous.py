"""The processes of a run find each other and wait for each other before jax connects them.

jax waits, too. If a process is missing, however, jax aborts the other processes. Its message is
long and does not name the missing process.
"""

import contextlib
import os
import socket
import time

from bert_jax.errors import ConfigError, TemporaryError, require
from bert_jax.faults.coordination import SECONDS_TO_LIVE

SECONDS_BETWEEN_ATTEMPTS = 0.5


def find_processes(*, timeout: float) -> tuple[str, int, int] | None:
    """Returns the address of process 0, the number of processes and the index of this process.

    jax detects them under Open MPI and Slurm, on Cloud TPU VMs, on GKE, and in an indexed job of
    Kubernetes. A process that is alone in its cluster gets no address. Outside a cluster, the
    result is None.

    Raises:
      ConfigError: jax detects a cluster, but not its processes.
      TemporaryError: the network, or the cluster's service for this, did not answer.
    """
    from jax._src import clusters  # jax has no public access to them

    def is_here(cluster: type[clusters.ClusterEnv]) -> bool:
        # Every pod of Kubernetes has the variables that jax looks for, but not every pod is a
        # process of several.
        if cluster is clusters.K8sCluster and "JOB_COMPLETION_INDEX" not in os.environ:
            return False
        return not cluster.opt_in_only_method and cluster.is_env_present()

    try:
        cluster = next(filter(is_here, clusters.ClusterEnv._cluster_types), None)
        if cluster is None or (count := cluster.get_process_count()) == 1:
            return cluster and ("", 1, 0)
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = cluster.get_coordinator_address(int(timeout), port)
        return address, count, cluster.get_process_id()
    except Exception as error:  # of the network, of a client of Kubernetes, or a missing variable
        # jax raises RuntimeError if the name of process 0 is not known before the timeout.
        kind = TemporaryError if isinstance(error, OSError | RuntimeError) else ConfigError
        raise kind(
            f"jax cannot find the processes of this cluster ({error!r}); accepted: --coordinator, "
            "--process_count and --process_index, or --nocluster if this process is alone"
        ) from error


def wait_for_processes(coordinator: str, count: int, index: int, *, timeout: float) -> None:
    """Returns when all `count` processes have called this function.

    Process 0 listens at `coordinator`, HOST:PORT, and the others connect to it. Afterwards the port
    is free again.

    Raises:
      ConfigError: `coordinator` is not HOST:PORT, or process 0 cannot listen there.
      TemporaryError: not all processes have called this function within `timeout` seconds.
    """
    host, _, port = coordinator.rpartition(":")
    whole = host and port.isdecimal() and 0 < int(port) < 2**16
    require(whole, "--coordinator", coordinator, "HOST:PORT, such as 10.0.0.1:8476")
    deadline = time.monotonic() + timeout
    if index:
        _come(host.strip("[]"), int(port), count, index, timeout, deadline)
    else:
        _wait_for_others(coordinator, int(port), count, timeout, deadline)


def _wait_for_others(
    coordinator: str, port: int, count: int, timeout: float, deadline: float
) -> None:
    server = _listen(coordinator, port, min(deadline, time.monotonic() + 2 * SECONDS_TO_LIVE))
    came: dict[int, socket.socket] = {}
    with server, contextlib.ExitStack() as connections:
        while len(came) < count - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection = connections.enter_context(server.accept()[0])
                connection.settimeout(5)
                if 0 < (number := int(connection.recv(16))) < count:
                    came[number] = connection
            except ValueError:  # this is not a process of the run
                continue
            except OSError as error:
                if time.monotonic() < deadline:
                    continue
                missing = sorted(set(range(1, count)) - came.keys())
                raise TemporaryError(
                    f"process {', '.join(map(str, missing[:5]))} of {count} has not come to "
                    f"process 0 at {coordinator} within {timeout:g} s; accepted: a command for "
                    "each process within --start_timeout"
                ) from error
        for connection in came.values():
            with contextlib.suppress(OSError):  # jax will notice that the process has ended
                connection.sendall(b"start")


def _listen(coordinator: str, port: int, deadline: float) -> socket.socket:
    """Listens at a port as soon as the service of a killed process 0 does not use it."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    while True:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"--coordinator is {coordinator!r}, but process 0 cannot listen at port {port} "
                    f"({error.strerror}); accepted: a free port"
                ) from error
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)


def _come(host: str, port: int, count: int, index: int, timeout: float, deadline: float) -> None:
    reason = "not all processes have come"
    while (seconds := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=seconds) as connection:
                connection.sendall(str(index).encode())
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                if connection.recv(16) == b"start":
                    return
        except OSError as error:  # process 0 does not listen yet
            reason = error.strerror or reason
        time.sleep(min(SECONDS_BETWEEN_ATTEMPTS, seconds))
    raise TemporaryError(
        f"process {index} of {count} has waited {timeout:g} s for process 0 at {host}:{port} "
        f"({reason}); accepted: the address of process 0, and a command for each process within "
        "--start_timeout"
    )
