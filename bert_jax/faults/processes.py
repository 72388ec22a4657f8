"""Connects the processes of a run, compares their inputs, and prints their lines."""

import hashlib
import os
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from bert_jax.errors import ConfigError, require
from bert_jax.faults import heartbeat, signals
from bert_jax.faults.coordination import connect
from bert_jax.faults.rendezvous import find_processes, wait_for_processes


def start_processes(
    coordinator: str | None,
    process_count: int | None,
    process_index: int | None,
    *,
    cluster: bool | None = None,
    timeout: float = 300,
) -> None:
    """Connects this process with the other processes of its run.

    The first three arguments are the address of process 0, the number of processes, and the index
    of this process. If all are None, jax detects them in a cluster (`find_processes`). Outside a
    cluster, the process is alone. Call this function before jax is asked for devices.

    Args:
      cluster: True makes it an error if jax detects no cluster. With False, jax does not look.

    Raises:
      ConfigError: only one or two of the three arguments are given, or one is wrong; or jax detects
        no cluster, or not its processes.
      TemporaryError: not all processes have called this function within `timeout` seconds, or the
        cluster does not say which they are.
    """
    if coordinator is None and process_count is None and process_index is None:
        found = None if cluster is False else find_processes(timeout=timeout)
        if found is None and cluster:
            raise ConfigError(
                "--cluster: jax detects no cluster here; accepted: a process under Slurm (srun) or "
                "Open MPI, on GKE or a Cloud TPU VM, or the flags --coordinator, --process_count "
                "and --process_index"
            )
        if found is None or found[1] == 1:
            return
        coordinator, process_count, process_index = found
    if coordinator is None or process_count is None or process_index is None:
        raise ConfigError(
            f"--coordinator={coordinator}, --process_count={process_count} and "
            f"--process_index={process_index} belong together; accepted: all three or none"
        )
    accepted = f"0 to {process_count - 1}, one less than --process_count"
    require(0 <= process_index < process_count, "--process_index", process_index, accepted)
    wait_for_processes(coordinator, process_count, process_index, timeout=timeout)
    connect(coordinator, process_count, process_index, local_device_ids=slurm_devices())
    if jax.process_count() > 1:
        signals.share()
        heartbeat.start()


def slurm_devices() -> list[int] | None:
    """Returns the indices of all GPUs of the node if Slurm runs one task per node, else None.

    If the result is None, jax gives GPU n of a node to Slurm task n of this node.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    gpus = os.environ.get("SLURM_GPUS_ON_NODE")
    alone = tasks == "1" or (tasks.startswith("1(") and "," not in tasks)
    return list(range(int(gpus))) if alone and gpus else None


def check_processes_agree(**facts: Any) -> None:
    """Raises ConfigError in each process if a value of `facts` is False or differs among them."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(facts).encode()).digest(), np.uint8)
    everyone = multihost_utils.process_allgather(digest)
    if (everyone != digest).any() or any(fact is False for fact in facts.values()):
        raise ConfigError(
            f"process {jax.process_index()} has {facts}, which differs between processes; "
            "accepted: the same command on every host, with data and workdir on shared storage"
        )


_every_process_reports = False


def report_in_every_process() -> None:
    """Lets `report` print the lines of every process, with the index of the process."""
    global _every_process_reports
    _every_process_reports = True


def report(text: str) -> None:
    """Prints a line on stderr in process 0; after `report_in_every_process`, in every process."""
    if _every_process_reports and jax.process_count() > 1:
        text = f"process {jax.process_index()}: {text}"
    elif jax.process_index():
        return
    print(text, file=sys.stderr, flush=True)
