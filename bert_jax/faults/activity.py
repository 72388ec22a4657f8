"""Measures the time of each kind of work of a run, and whether the run makes progress."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

from bert_jax.config.paths import last_written
from bert_jax.environment import Start
from bert_jax.files import read_json

PACKAGE = Path(__file__).parents[1]

T = TypeVar("T")

COMPILES = "jax compiles"
"""Name of any work in `Activity.place` while jax traces, lowers or compiles a program."""

Work = Literal["start", "compilation", "updates", "evaluation", "saving"]


class Activity:
    """Adds up the seconds of each kind of work of a run, and notes when the run last made progress.

    `place` and `seconds_without_progress` look at the thread that created the object.
    """

    def __init__(self):
        self.lost = 0.0
        """Seconds of updates that were made again after a kill or a rollback."""
        self.seconds_of_last = 0.0
        """Duration of the work that ended last, in seconds."""
        self._spent: dict[str, float] = {}
        self._work: Work = "start"
        self._step = 0
        self._since = self._progress = time.monotonic()
        self._thread = threading.get_ident()

    def go_on(self, spent: Mapping[str, float]) -> None:
        """Adds the seconds up to the checkpoint from which the run goes on."""
        for work, seconds in spent.items():
            self._spent[work] = self._spent.get(work, 0.0) + seconds

    def lose_updates(self, spent: Mapping[str, float]) -> None:
        """Counts the updates since a checkpoint as lost. `spent` has the seconds up to it."""
        made = self._spent.get("updates", 0.0) - spent.get("updates", 0.0)
        self._spent["updates"] = spent.get("updates", 0.0)
        self.lost += made

    def begin(self, work: Work) -> None:
        """Ends the current work and begins another."""
        now = time.monotonic()
        self.seconds_of_last = now - self._since
        self._spent[self._work] = self._spent.get(self._work, 0.0) + self.seconds_of_last
        self._work, self._since, self._progress = work, now, now

    def progress(self, step: int | None = None) -> None:
        """Notes that the run makes progress. `step` is the number of the update that begins now."""
        self._progress = time.monotonic()
        self._step = step or self._step

    def each(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields the batches of an evaluation. Each batch counts as progress."""
        for batch in batches:
            self.progress()
            yield batch

    def spent(self) -> dict[str, float]:
        """Returns the seconds of each kind of work so far, including earlier starts of the run."""
        now = time.monotonic() - self._since
        return self._spent | {self._work: self._spent.get(self._work, 0.0) + now}

    def goodput(self) -> dict[str, Any]:
        """Returns the share of time in updates that are not lost, and the seconds of all work."""
        spent = self.spent() | {"lost": self.lost}
        return {
            "share": round(spent.get("updates", 0.0) / sum(spent.values()), 4),
            "seconds": {work: round(seconds, 1) for work, seconds in spent.items()},
        }

    def seconds_without_progress(self) -> float:
        """Returns the seconds since the last progress, or 0 while jax compiles."""
        if self._compiles():
            self.progress()
        return time.monotonic() - self._progress

    def place(self) -> str:
        """Returns the step, the work, and the lines of code at which the run stands."""
        frames = list(self._frames())
        ours = (one for one in frames if Path(one.f_code.co_filename).is_relative_to(PACKAGE))
        lines = [
            f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"
            for frame in (next(ours, None), *frames[:1])
            if frame
        ]
        work = COMPILES if self._compiles() else self._work
        return f"at step {self._step}, {work}, {' in '.join(dict.fromkeys(lines))}"

    def _compiles(self) -> bool:
        compiler = ("interpreters/partial_eval.py", "interpreters/mlir.py", "jax/_src/compiler.py")
        return any(frame.f_code.co_filename.endswith(compiler) for frame in self._frames())

    def _frames(self) -> Iterator[FrameType]:
        frame = sys._current_frames().get(self._thread)
        while frame:
            yield frame
            frame = frame.f_back


def lost_seconds(workdir: Path, step: int) -> float:
    """Returns how long the previous process of a run worked after it had saved `step`.

    The time of the last write to `metrics.jsonl` is the time when that process last worked. The
    result is 0 if there was no such process, or if its work is saved.
    """
    metrics, file = workdir / "metrics.jsonl", workdir / "environment.json"
    if not metrics.exists() or not file.exists():
        return 0.0
    try:
        begun = datetime.fromisoformat(read_json(file, Start)["time"]).timestamp()
    except ValueError:  # `describe_again` says that the file is damaged
        return 0.0
    saved = last_written(workdir / "checkpoints" / str(step)) if step else 0.0
    return max(0.0, last_written(metrics) - max(begun, saved))
