"""The processes of a run: they find each other, agree, and end together."""

import atexit
import contextlib
import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from bert_jax.errors import ConfigError
from bert_jax.faults import signals
from bert_jax.faults.activity import COMPILES, Activity
from bert_jax.faults.rendezvous import wait_for_processes

BEAT_SECONDS = 2
"""Time between two signs of life of a process."""

LOST_SECONDS = 15
"""A process is lost if it gives no sign of life for this time."""

GRACE_SECONDS = 3
"""Time in which a process may print an error of its own before it ends with that of another."""

_FAILED = "bert_jax/failed"
"""Key in jax's store of the run, which process 0 holds: the status and the error of a process."""

_ALIVE = "bert_jax/alive"
"""Keys in this store: a number that a process changes, and where it stands. "0" if it is done."""


def start_processes(
    coordinator: str | None,
    process_count: int | None,
    process_index: int | None,
    *,
    cluster: bool,
    timeout: float = 300,
) -> None:
    """Connects this process with the other processes of its run.

    The first three arguments are the address of process 0, the number of processes, and the index
    of this process. If all are None, jax finds the processes of a Slurm job and, with `cluster`, of
    other clusters, such as a Cloud TPU slice. Call this function before jax is asked for devices.

    Raises:
      ConfigError: only one or two of the three arguments are given, or one is wrong; or not all
        processes have called this function within `timeout` seconds.
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
        if not 0 <= process_index < process_count:
            raise ConfigError(
                f"--process_index is {process_index}; accepted: 0 to {process_count - 1}, "
                "one less than --process_count"
            )
        wait_for_processes(coordinator, process_count, process_index, timeout=timeout)
    elif not cluster and not of_slurm:
        return
    jax.distributed.initialize(*given, local_device_ids=slurm_devices())
    if jax.process_count() > 1:
        done = threading.Event()
        thread = threading.Thread(target=_follow_others, args=(done,), daemon=True)
        thread.start()

        @atexit.register
        def end() -> None:
            done.set()
            # A thread that waits for the store while Python ends would abort the process.
            thread.join()


def _store() -> Any:
    """Returns the store that the processes of the run share, or None in a run of one process."""
    if "jax" not in sys.modules:
        return None
    from jax._src import distributed  # jax has no public access to the store

    return distributed.global_state.client


def _read(key: str) -> str:
    """Returns a value of the store, or an empty string if there is none.

    Raises:
      JaxRuntimeError: process 0 does not answer.
    """
    import jax

    try:
        return _store().key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return ""
        raise


def _follow_others(done: threading.Event) -> None:
    """Ends this process when another process of the run fails or gives no sign of life.

    Each process watches the next. It tells all others if that process is lost.
    """
    import jax

    me, number = jax.process_index(), 0
    watched = (me + 1) % jax.process_count()
    seen, changed = "", time.monotonic()
    while not done.wait(BEAT_SECONDS):
        number += 1
        try:
            _give_sign(f"{number} {_place()}")
            failure, sign = _read(_FAILED), _read(f"{_ALIVE}/{watched}")
        except jax.errors.JaxRuntimeError:
            failure, sign, watched = "", seen, 0  # process 0 does not answer
        if failure:
            status, _, said = failure.partition(" ")
            if said.startswith(f"process {me} has ended"):
                return  # this process ends by itself
            time.sleep(GRACE_SECONDS)
            _end(int(status), said)
        if sign != seen or sign == "0":
            seen, changed = sign, time.monotonic()
        if time.monotonic() - changed > LOST_SECONDS:
            said = f"process {watched} is lost: no sign of life for {LOST_SECONDS} seconds"
            _tell(signals.STATUS, said)
            _end(signals.STATUS, said)
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _give_sign("0")


def _give_sign(sign: str) -> None:
    import jax

    _store().key_value_set(f"{_ALIVE}/{jax.process_index()}", sign, allow_overwrite=True)


def _tell(status: int, said: str) -> None:
    """Tells all processes why they end. The first call of a run counts."""
    import jax

    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _store().key_value_set(_FAILED, f"{status} {said}")


def _end(status: int, said: str) -> None:
    """Ends this process at once, after a line about the reason."""
    print(f"error: {said}", file=sys.stderr, flush=True)
    _leave(status)


def _leave(status: int) -> None:
    import jax

    if is_one_of_several() and jax.process_index() == 0:
        time.sleep(2 * GRACE_SECONDS)  # the others read the store, which ends with process 0
    sys.stderr.flush()
    os._exit(status)


def is_one_of_several() -> bool:
    """Returns whether this process is connected with other processes of its run."""
    return _store() is not None


def wait_for_cause(error: Exception) -> None:
    """Waits after an error of jax in one of several processes, because another may have caused it.

    If another process has failed or is lost, this process ends with a line about the other one.
    """
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError):
        time.sleep(LOST_SECONDS + GRACE_SECONDS)


def leave(status: int, said: str) -> None:
    """Ends this process of several after an error. The other processes of the run end, too.

    Otherwise, the others would wait for this process in their next update, and this process would
    wait for the others in jax's shutdown.
    """
    import jax

    _tell(status, f"process {jax.process_index()} has ended: {said}")
    _leave(status)


_activity: Activity | None = None


def _place() -> str:
    return _activity.place() if _activity else "outside the training loop"


@contextlib.contextmanager
def end_if_stalled(activity: Activity, *, seconds: float) -> Iterator[None]:
    """Ends the process, and with it the run, when `activity` makes no progress for `seconds`.

    First, lines on stderr say where every process stands.
    """
    global _activity
    _activity, done = activity, threading.Event()

    def watch() -> None:
        while not done.wait(min(seconds / 4, 10)):
            if activity.seconds_without_progress() < seconds:
                continue
            places = _places()
            if any(COMPILES in place for place in places):
                activity.progress()  # another process compiles, and this one waits for it
                continue
            print("\n".join(places), file=sys.stderr, flush=True)
            said = f"no progress for {seconds:g} seconds (training.stall_seconds)"
            if is_one_of_several():
                print(f"error: {said}", file=sys.stderr)
                leave(signals.STATUS, said)
            _end(signals.STATUS, f"{said}; the same command goes on from the last checkpoint")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _activity = None


def _places() -> list[str]:
    """Returns a line about each process: where it stands."""
    import jax

    if not is_one_of_several():
        return [f"the process stands {_place()}"]
    signs = {int(key.rpartition("/")[2]): sign for key, sign in _store().key_value_dir_get(_ALIVE)}
    signs[jax.process_index()] = f"now {_place()}"
    return [
        f"process {index} stands {sign.partition(' ')[2]}" for index, sign in sorted(signs.items())
    ]


_every_process_reports = False


def report_in_every_process() -> None:
    """Lets `report` print the lines of every process, with the index of the process."""
    global _every_process_reports
    _every_process_reports = True


def report(text: str) -> None:
    """Prints a line on stderr: the line of process 0, or after `report_in_every_process` of all."""
    import jax

    if _every_process_reports and jax.process_count() > 1:
        text = f"process {jax.process_index()}: {text}"
    elif jax.process_index():
        return
    print(text, file=sys.stderr, flush=True)


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
