"""SIGTERM, SIGHUP and SIGINT (Ctrl-C) end a command so that the same command can go on.

A command that was ended by a signal has the exit status 75, EX_TEMPFAIL of sysexits.h: start it
again. A second Ctrl-C ends the process at once.
"""

import os
import signal
import threading
from types import FrameType
from typing import Any

STATUS = 75

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A signal ended the command. The message says what was saved."""


def raise_on_signals() -> None:
    """Makes each signal raise `Interrupted` in the main thread."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _raise)


def _raise(number: int, _: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise Interrupted(f"interrupted by {signal.Signals(number).name}")


class Notice:
    """A context manager in which a signal ends nothing, but is noted: see `reached`."""

    def __init__(self):
        self.signal: str | None = None
        """Name of the signal that came to this process."""
        self._before: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN and not self._is_of_jax(number):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        """Returns whether a signal came to any process of the run. All processes get True at one
        step; each must ask after each step.
        """
        import jax
        from jax.experimental import multihost_utils

        if jax.process_count() == 1:
            return self.signal is not None
        return multihost_utils.reached_preemption_sync_point(step)

    def _note(self, number: int, _: FrameType | None) -> None:
        import jax

        self.signal = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    @staticmethod
    def _is_of_jax(number: int) -> bool:
        """With several processes, jax handles SIGTERM: it tells all processes."""
        import jax

        return number == signal.SIGTERM and jax.process_count() > 1
