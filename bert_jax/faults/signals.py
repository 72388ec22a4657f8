"""SIGTERM, SIGHUP and SIGINT (Ctrl-C) end a command so that the same command can go on.

A command that was ended by a signal has the exit status 75, EX_TEMPFAIL of sysexits.h: start it
again. A second Ctrl-C ends the process at once.
"""

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

STATUS = 75

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A signal ended the command. The message says what was saved."""


def raise_on_signals() -> None:
    """Makes each signal raise `Interrupted` in the main thread."""
    sys.unraisablehook = partial(_raise_again, others=sys.unraisablehook)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _raise)


def _raise(number: int, _: FrameType | None) -> None:
    for other in SIGNALS:  # nothing interrupts the way out but a second Ctrl-C
        if signal.getsignal(other) != signal.SIG_IGN:
            # With SIG_IGN, Python prints an error if `other` came together with this signal.
            signal.signal(other, signal.SIG_DFL if other == signal.SIGINT else lambda *_: None)
    raise Interrupted(f"interrupted by {signal.Signals(number).name}")


def _raise_again(unraisable: Any, *, others: Callable[[Any], None]) -> None:
    """Raises `Interrupted` again if jax's callback of the garbage collector was interrupted."""
    if not isinstance(unraisable.exc_value, Interrupted):
        return others(unraisable)
    said = str(unraisable.exc_value)

    def again(*_: Any) -> None:
        raise Interrupted(said)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, 0.01)  # when the callback has ended


def share() -> None:
    """Makes all processes of a run learn of a signal to this process.

    Call it after jax has connected the processes. jax's preemption service tells the processes only
    of SIGTERM, so this process sends other signals to itself again as SIGTERM.
    """
    import jax

    if jax.process_count() > 1:
        for number in (signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _send_as_sigterm)


def _send_as_sigterm(number: int, _: FrameType | None) -> None:
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


_calls = itertools.count(1)
"""Numbers the calls of `Notice.reached`. All processes of a run make the same calls."""


class Notice:
    """A context manager that records a signal instead of ending the process.

    `reached` returns whether a signal came.
    """

    def __init__(self):
        self.signal: str | None = None
        """Name of the signal that came to this process."""
        self._reached = False
        self._before: dict[int, Any] = {}

    def __enter__(self):
        import jax

        if threading.current_thread() is not threading.main_thread():
            return self  # Python runs handlers in the main thread alone
        if jax.process_count() > 1:
            share()
            return self
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reached(self) -> bool:
        """Returns whether a signal came to any process of the run.

        Each process must ask after each step. All get True after the same step.
        """
        import jax
        from jax.experimental import multihost_utils

        if jax.process_count() == 1:
            return self.signal is not None
        # After a signal, jax's service chooses the next number after the largest it was asked for,
        # from 1 on. A resumed run begins with a later step and would never ask for that number, so
        # the numbers count calls, not steps. The service returns True only once.
        self._reached = self._reached or multihost_utils.reached_preemption_sync_point(next(_calls))
        return self._reached

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
