"""Ends the processes of a run together: after an error, a lost process, or a stall.

The processes talk through the key-value store of `jax.distributed`. A child of process 0 holds it
(`coordination`).
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed  # jax has no public access to the store

from bert_jax.faults import signals
from bert_jax.faults.activity import COMPILES, Activity

BEAT_SECONDS = 2
"""Time between two signs of life of a process."""

LOST_BEATS = 7
"""Number of beats without a new sign after which a process counts as lost."""

GRACE_SECONDS = 3
"""Time that a process has for its own error before it ends with the error of another process."""

_FAILED = "bert_jax/failed"
"""Key in the store. Its value is the status and the error of the first process that failed."""

_SIGNS = "bert_jax/signs"
"""Start of the key of each process. The value is a beat number, and where the process stands."""

_DONE = "0"
"""The sign of a process that has finished."""


def start() -> None:
    """Starts to give signs of life and to watch the other processes. Call it once per process."""
    heartbeat = _Heartbeat()
    threads = [
        threading.Thread(target=target, daemon=True) for target in (heartbeat.talk, heartbeat.count)
    ]
    for thread in threads:
        thread.start()

    @atexit.register
    def end() -> None:
        heartbeat.done.set()
        for thread in threads:
            # Python aborts if it ends while a thread waits for the store. The store answers at
            # once, unless the machine of process 0 is lost.
            thread.join(LOST_BEATS * BEAT_SECONDS)


class _Heartbeat:
    """Ends this process when another process of the run fails or gives no sign of life.

    Each process watches the process with the next index, and tells all processes if that process is
    lost. If the machine of process 0 is lost, the store may not answer. One thread therefore talks
    to the store, and another thread counts beats.
    """

    def __init__(self):
        self.done = threading.Event()
        self._index = jax.process_index()
        self._watched = (self._index + 1) % jax.process_count()
        self._silent = 0
        """Beats since the watched process changed its sign."""
        self._unanswered = 0
        """Beats since the store answered."""

    def talk(self) -> None:
        number, seen = 0, ""
        while not self.done.wait(BEAT_SECONDS):
            number += 1
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # `count` notices it
                _give_sign(f"{number} {_place()}")
                failure, sign = _read(_FAILED), _read(f"{_SIGNS}/{self._watched}")
                self._unanswered = 0
                if failure:
                    return self._follow(failure)
                if sign != seen or sign == _DONE:
                    seen, self._silent = sign, 0
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _give_sign(_DONE)

    def _follow(self, failure: str) -> None:
        status, _, said = failure.partition(" ")
        if not said.startswith(f"process {self._index} has ended"):  # else `leave` ends it
            time.sleep(GRACE_SECONDS)
            _end(int(status), said)

    def count(self) -> None:
        for suspended in _beats(self.done, BEAT_SECONDS):
            if suspended:
                self._silent = self._unanswered = 0
            self._silent, self._unanswered = self._silent + 1, self._unanswered + 1
            if self._unanswered > LOST_BEATS:
                _end(signals.STATUS, _lost(0))
            if self._silent > LOST_BEATS:
                _tell(signals.STATUS, _lost(self._watched))
                _end(signals.STATUS, _lost(self._watched))


def _lost(index: int) -> str:
    return f"process {index} is lost: no sign of life for {LOST_BEATS * BEAT_SECONDS} seconds"


def _beats(done: threading.Event, seconds: float) -> Iterator[bool]:
    """Yields whether this process was suspended since the last value, every `seconds` until `done`.

    While a process is suspended, for example by Ctrl-Z, it reads no signs and makes no progress.
    """
    before = time.monotonic()
    while not done.wait(seconds):
        now = time.monotonic()
        yield now - before > 2 * seconds
        before = now


# ---- The store -----------------------------------------------------------------------------------


def _store() -> Any:
    return distributed.global_state.client


def _read(key: str) -> str:
    """Returns a value of the store, or an empty string if there is none.

    Raises:
      JaxRuntimeError: the store does not answer.
    """
    try:
        return _store().key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return ""
        raise


def _give_sign(sign: str) -> None:
    _store().key_value_set(f"{_SIGNS}/{jax.process_index()}", sign, allow_overwrite=True)


def _tell(status: int, said: str) -> bool:
    """Tells all processes why they end. Returns whether this process was the first to say so."""
    try:
        _store().key_value_set(_FAILED, f"{status} {said}")
    except jax.errors.JaxRuntimeError:
        return False
    return True


# ---- The end -------------------------------------------------------------------------------------


def is_one_of_several() -> bool:
    """Returns whether this process is connected with other processes of its run."""
    return _store() is not None and jax.process_count() > 1


def wait_for_all(what: str) -> None:
    """Waits for an hour at most until all processes have called this function with `what`."""
    if is_one_of_several():
        _store().wait_at_barrier(f"bert_jax/{what}", 3_600_000)


def wait_for_cause(error: Exception) -> None:
    """Waits after an error of jax, because another process may have caused this error.

    If another process has failed or is lost, this process ends meanwhile, with a line about it.
    """
    if isinstance(error, jax.errors.JaxRuntimeError):
        # The time until a lost process is noticed, until this process reads about it, and the time
        # that this process then has for its own error.
        time.sleep((LOST_BEATS + 3) * BEAT_SECONDS + 2 * GRACE_SECONDS)


def leave(status: int, said: str) -> None:
    """Ends this process after an error, and with it the other processes of the run.

    Otherwise, the others would wait for this process in their next update, and this process would
    wait for the others in jax's shutdown.
    """
    _tell(status, f"process {jax.process_index()} has ended: {said}")
    _exit(status)


def _end(status: int, said: str) -> None:
    """Prints a line with the reason and ends this process at once."""
    print(f"error: {said}", file=sys.stderr, flush=True)
    _exit(status)


def _exit(status: int) -> None:
    sys.stderr.flush()
    os._exit(status)


# ---- Stalls --------------------------------------------------------------------------------------

_activity: Activity | None = None


def _place() -> str:
    activity = _activity  # the main thread may change the variable meanwhile
    return activity.place() if activity else "outside the training loop"


@contextlib.contextmanager
def end_if_stalled(activity: Activity, *, seconds: float) -> Iterator[None]:
    """Ends the process, and with it the run, when `activity` makes no progress for `seconds`.

    First, lines on stderr say where every process stands.
    """
    global _activity
    _activity, done = activity, threading.Event()

    def watch() -> None:
        for suspended in _beats(done, min(seconds / 4, 10)):
            if suspended:
                activity.progress()
            if activity.seconds_without_progress() < seconds:
                continue
            places = _places()
            if any(COMPILES in place for place in places):
                activity.progress()  # another process compiles, and this one waits for it
                continue
            said = f"no progress for {seconds:g} seconds (training.stall_seconds)"
            if not is_one_of_several() or _tell(signals.STATUS, f"a process has made {said}"):
                print("\n".join(places), file=sys.stderr, flush=True)
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
    """Returns a line for each process, which says where the process stands."""
    if not is_one_of_several():
        return [f"the process stands {_place()}"]
    signs = {int(key.rpartition("/")[2]): sign for key, sign in _store().key_value_dir_get(_SIGNS)}
    signs[jax.process_index()] = f"now {_place()}"
    return [
        f"process {index} stands {sign.partition(' ')[2]}" for index, sign in sorted(signs.items())
    ]
