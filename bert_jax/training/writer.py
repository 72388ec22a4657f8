"""Writes `metrics.jsonl`, TensorBoard files and progress lines, on process 0 only."""

import contextlib
import json
import math
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c

from bert_jax import environment
from bert_jax.config.paths import LocalFiles
from bert_jax.errors import DivergenceError
from bert_jax.faults.run_files import RowsFile, WrittenRows
from bert_jax.files import append, synchronize
from bert_jax.training.config import TrainingConfig
from bert_jax.training.metrics import Mean, PendingRow, merge
from bert_jax.training.nonfinite import ADVICE
from bert_jax.training.step import Metrics

SECONDS_BETWEEN_LINES = 10.0
"""Minimum time between two progress lines, in seconds, if stderr is not a terminal."""

Tracker = Callable[[int, dict[str, float]], None]
"""A function of the step and the scalars of a row."""

TRACKERS: list[Tracker] = []
"""Functions that get each row on process 0, as TensorBoard does. A plug-in appends its own."""

Window = list[tuple[int, Metrics]]
"""The number and the metrics of each step of a row. A step without an update has no metrics."""


class RunWriter:
    """A context manager that merges the metrics of steps into rows of `metrics.jsonl`.

    The writer first deletes rows after `first_step`, which an interrupted run may have left. A
    resumed run therefore leaves the same rows as an uninterrupted run, except for `perf/` values.
    If rows are damaged, or differ from `written`, a line on stderr says so.
    """

    def __init__(
        self,
        workdir: Path,
        config: TrainingConfig,
        first_step: int,
        profile_steps: range = range(0),
        pending: PendingRow = (),
        written: WrittenRows | None = None,
        on_nonfinite: Callable[[int, dict[str, Any]], None] | None = None,
    ):
        """`on_nonfinite` is called with the number and metrics of each step that is not finite."""
        self.phase: int | None = None
        """Number of the phase, written into each row; None in a run of one phase."""
        self._workdir = workdir
        self._active = jax.process_index() == 0
        self._profile_steps = profile_steps if self._active else range(0)
        self._trace = contextlib.ExitStack()
        self._on_nonfinite = on_nonfinite
        self._step = first_step
        self._window: Window = [
            (step, {name: Mean(*value) for name, value in metrics.items()})
            for step, metrics in enumerate(pending, first_step - len(pending) + 1)
        ]
        self._earlier = len(pending)
        """Number of steps of the row that an earlier process made."""
        self._ended: tuple[int, Window] | None = None
        self._clock = time.monotonic()
        self._last_line = 0.0
        self._console = environment.plain_console(stderr=True)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (self._active and self._console.is_terminal),
        )
        self._task = self._progress.add_task("", total=config.steps, completed=first_step)
        if self._active:
            self._rows = RowsFile(workdir / "metrics.jsonl", first_step, written)
            self._tensorboard = LocalFiles(workdir / "tensorboard")
            names = [path.name for path in (workdir / "tensorboard").glob("*")]
            self._events = _first_events(self._tensorboard.directory, names, first_step)

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *_):
        self._trace.close()
        self._progress.stop()

    @contextlib.contextmanager
    def profile(self, step: int) -> Iterator[None]:
        """Marks the update of a step in the profiler trace.

        The trace starts before the first of `profile_steps` and is written after the last.
        """
        if step == self._profile_steps.start:
            self._trace.enter_context(jax.profiler.trace(self._tensorboard.directory))
        with jax.profiler.StepTraceAnnotation("update", step_num=step):
            yield
        if step + 1 == self._profile_steps.stop:
            jax.block_until_ready(self._window)
            self._trace.close()

    def add(self, metrics: Metrics) -> None:
        """Adds the metrics of a step, and waits until the devices have made the second step before.

        A loop far ahead of the devices would wait for many steps at a row or after a signal, and
        `end_if_stalled` would take that for a stall. If `end_row` has ended a row, that row is
        written now. `metrics` is empty if the update of this step is left out.
        """
        self._step += 1
        self._window.append((self._step, metrics))
        jax.block_until_ready(self._window[-3:-2])
        if self._ended is not None:
            (step, ended), self._ended = self._ended, None
            self.write(step, self._read(ended))

    def end_row(self, step: int) -> None:
        """Ends a row with this step. The next `add` writes the row."""
        self._ended, self._window = (step, self._window), []

    def read_row(self) -> dict[str, float]:
        """Ends a row, waits for its steps and returns the row. The caller writes it."""
        row, self._window = self._read(self._window), []
        return row

    def pending(self) -> PendingRow:
        """Returns the metrics of the steps since the last row, for a resumed run. Waits for them.

        Raises:
          DivergenceError: a value is not finite.
        """
        if self._ended is not None:
            (step, ended), self._ended = self._ended, None
            self.write(step, self._read(ended))
        steps = []
        for step, metrics in self._fetch(self._window):
            values = {k: (float(mean.total), float(mean.weight)) for k, mean in metrics.items()}
            for name, (total, _) in values.items():
                self._check_finite(f"train/{name}", total, step)
            steps.append(values)
        return steps

    def restart_clock(self) -> None:
        """Excludes the time since `read_row`, such as an evaluation, from the tokens per second."""
        self._clock = time.monotonic()

    def _read(self, window: Window) -> dict[str, float]:
        updates = [metrics for _, metrics in self._fetch(window) if metrics]
        row = merge(updates)
        now = time.monotonic()
        steps = len(window) - self._earlier
        tokens_per_second = row.pop("tokens", 0.0) * steps / (now - self._clock)
        self._clock, self._earlier = now, 0
        row = {f"train/{name}": value for name, value in row.items()}
        if len(updates) < len(window):
            row["train/skipped_updates"] = len(window) - len(updates)
        return row | {"perf/tokens_per_second": tokens_per_second}

    def _fetch(self, window: Window) -> list[tuple[int, dict[str, Any]]]:
        """Waits for the steps. The metrics of a step that made no update become empty."""
        fetched = []
        for step, metrics in jax.device_get(window):
            updated = "finite" not in metrics or metrics["finite"].total.all()
            if self._on_nonfinite and not updated:
                self._on_nonfinite(step, metrics)
                metrics = {}
            fetched.append((step, {k: v for k, v in metrics.items() if k != "finite"}))
        return fetched

    def write(self, step: int, row: dict[str, float]) -> None:
        """Writes one row of scalars, named `train/...`, `eval/...` or `perf/...`.

        Raises:
          DivergenceError: a value is not finite.
        """
        for name, value in row.items():
            self._check_finite(name, value, step)
        if not self._active:
            return
        phase = {} if self.phase is None else {"phase": self.phase}
        line = f"{json.dumps({'step': step} | phase | row)}\n".encode()
        self._rows.append(line)
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
        append(self._events, _event(step=step, summary=Summary(value=scalars)))
        for tracker in TRACKERS:
            tracker(step, row)
        self._progress.update(self._task, completed=step, description=_summary(row))
        evaluated = "eval/mlm_loss" in row
        due = time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES
        if evaluated or (due and not self._console.is_terminal):
            self._last_line = time.monotonic()
            self._console.print(f"step {step:>7}  {_summary(row)}", soft_wrap=True)

    def synchronize(self) -> WrittenRows | None:
        """Waits until all rows are on the disk. Process 0 returns their number and hash.

        In gs://, the files of TensorBoard are written here.
        """
        if not self._active:
            return None
        synchronize(self._events)
        self._tensorboard.copy()
        return self._rows.synchronize()

    def _check_finite(self, name: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise DivergenceError(
                f"{self._workdir}: {name} is {value} at step {step}; accepted: finite values. "
                f"{ADVICE}"
            )


def _summary(row: dict[str, float]) -> str:
    parts = []
    for split in ("train", "eval"):
        if f"{split}/mlm_loss" in row:
            parts.append(
                f"{split} loss {row[f'{split}/loss']:.3f}"
                f" mlm {row[f'{split}/mlm_loss']:.3f} acc {row[f'{split}/mlm_accuracy']:.3f}"
            )
        if f"{split}/nsp_accuracy" in row:
            parts.append(f"nsp acc {row[f'{split}/nsp_accuracy']:.3f}")
    if "perf/tokens_per_second" in row:
        parts.append(f"{row['perf/tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


def _first_events(directory: Path, earlier: Sequence[str], first_step: int) -> Path:
    """Starts a new file of TensorBoard events and returns its path.

    TensorBoard reads the files of a directory in the order of their names. `earlier` has the names
    of the files of earlier starts. The first events of the new file make TensorBoard drop the steps
    after `first_step` from them.
    """
    prefix = "events.out.tfevents."
    times = [name.removeprefix(prefix)[:10] for name in earlier]
    newest = max((int(seconds) for seconds in times if seconds.isdecimal()), default=0)
    file = directory / f"{prefix}{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}"
    start = SessionLog(status=SessionLog.START)
    append(file, _event(file_version="brain.Event:2"))
    append(file, _event(step=first_step + 1, session_log=start))
    return file


def _event(**fields: Any) -> bytes:
    """Returns an event as a TFRecord: length, checksum, content, checksum."""
    content = Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(content))
    return b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (length, content))
