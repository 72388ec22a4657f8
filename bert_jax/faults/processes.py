"""The processes of a run: they find each other, agree, and end together."""

import contextlib
import hashlib
import os
import re
import sys
import threading
import time
from typing import Any

from bert_jax.errors import ConfigError


def start_processes(
    coordinator: str | None, process_count: int | None, process_index: int | None, *, cluster: bool
) -> None:
    """Connects this process with the other processes of its run.

    The first three arguments are the address of process 0, the number of processes, and the index
    of this process. If all are None, jax finds the processes of a Slurm job and, with `cluster`, of
    other clusters, such as a Cloud TPU slice. Call this function before jax is asked for devices.

    Raises:
      ConfigError: only one or two of the three arguments are given, the address has no port, or the
        index is out of range.
    """
    import jax

    given = (coordinator, process_count, process_index)
    of_slurm = int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in os.environ
    if given != (None, None, None):
        if coordinator is None or process_count is None or process_index is None:
            raise ConfigError(
                f"--coordinator={coordinator}, --process_count={process_count} and "
                f"--process_index={process_index} belong together; accepted: all three or none"
            )
        if not re.fullmatch(r"\S+:\d{1,5}", coordinator):
            raise ConfigError(
                f"--coordinator is {coordinator!r}; accepted: HOST:PORT, such as 10.0.0.1:8476"
            )
        if not 0 <= process_index < process_count:
            raise ConfigError(
                f"--process_index is {process_index}; accepted: 0 to {process_count - 1}, "
                "one less than --process_count"
            )
    elif not cluster and not of_slurm:
        return
    jax.distributed.initialize(*given, local_device_ids=slurm_devices())
    if jax.process_count() > 1:
        threading.Thread(target=_follow_others, daemon=True).start()


_FAILED = "bert_jax/failed"
"""Key in jax's store of the run, which process 0 holds: the status and the error of a process."""

GRACE_SECONDS = 5
"""Time in which a process may print an error of its own before it ends with that of another."""


def _store() -> Any:
    """Returns the store that the processes of the run share, or None in a run of one process."""
    if "jax" not in sys.modules:
        return None
    from jax._src import distributed  # jax has no public access to the store

    return distributed.global_state.client


def _follow_others() -> None:
    """Ends this process when another process of the run calls `leave`."""
    import jax

    while True:
        try:
            failure: str = _store().blocking_key_value_get(_FAILED, 10_000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                continue
            return  # the run has ended, and jax has closed the store
        status, _, said = failure.partition(" ")
        if said.startswith(f"process {jax.process_index()} "):
            return  # it is this process
        time.sleep(GRACE_SECONDS)
        print(f"error: {said}", file=sys.stderr, flush=True)
        os._exit(int(status))


def is_one_of_several() -> bool:
    """Returns whether this process is connected with other processes of its run."""
    return _store() is not None


def leave(status: int, said: str) -> None:
    """Ends this process of several after an error. The other processes of the run end, too.

    Otherwise, the others would wait for this process in their next update, and this process would
    wait for the others in jax's shutdown.
    """
    import jax

    failure = f"{status} process {jax.process_index()} has ended: {said}"
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process was first
        _store().key_value_set(_FAILED, failure)
    if jax.process_index() == 0:
        time.sleep(2 * GRACE_SECONDS)  # the others read the store, which ends with process 0
    sys.stderr.flush()
    os._exit(status)


def slurm_devices() -> list[int] | None:
    """Returns the indices of all GPUs of the node if Slurm runs one task per node, else None.

    If the result is None, jax gives GPU n of a node to Slurm task n of this node.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    gpus = os.environ.get("SLURM_GPUS_ON_NODE")
    alone = tasks == "1" or (tasks.startswith("1(") and "," not in tasks)
    return list(range(int(gpus))) if alone and gpus else None


def check_processes_agree(**facts: Any) -> None:
    """Checks that the values of `facts` are equal in all processes; if not, all processes raise.

    Raises:
      ConfigError: there are several processes, and a value differs between them or is False.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(facts).encode()).digest(), np.uint8)
    everyone = multihost_utils.process_allgather(digest)
    if (everyone != digest).any() or any(fact is False for fact in facts.values()):
        raise ConfigError(
            f"process {jax.process_index()} has {facts}, which differs between processes; "
            "accepted: the same command on every host, with data and workdir on shared storage"
        )
