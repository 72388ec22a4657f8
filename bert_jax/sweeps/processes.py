"""Makes the runs of a sweep, several at a time, each in a process with its own cores or chips."""

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from bert_jax import config
from bert_jax.errors import require
from bert_jax.faults import signals
from bert_jax.files import write_atomically, write_json
from bert_jax.sweeps.display import Display
from bert_jax.sweeps.grid import PlannedRun
from bert_jax.sweeps.runs import missing_commands, state_of


class Share(NamedTuple):
    """The part of the machine that a run gets."""

    cpus: frozenset[int]
    environment: dict[str, str]
    """Variables that make its accelerators visible; empty without accelerators."""


Events = SimpleQueue[tuple["Started", str | None]]
"""Lines of stderr of the processes; None at the end of a process."""


@dataclass(eq=False)
class Started:
    """A run that is being made and evaluated, by one process after another."""

    run: PlannedRun
    directory: Path
    share: Share
    commands: list[list[str]]
    """Arguments of the processes that have not started."""
    process: subprocess.Popen[str] = field(init=False)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=50))

    def start_next(self, lock: int, events: Events) -> None:
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.share.cpus)  # a process inherits the cores of this thread
        try:
            self.process = subprocess.Popen(
                [sys.executable, *self.commands.pop(0)],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                pass_fds=[lock],
                env=os.environ | self.share.environment,
            )
        finally:
            os.sched_setaffinity(0, own)
        threading.Thread(target=self._read, args=[events], daemon=True).start()

    def _read(self, events: Events) -> None:
        for line in self.process.stderr or ():
            self.lines.append(line)
            events.put((self, line))
        self.process.wait()
        events.put((self, None))


def shares(parallel: int) -> list[Share]:
    """Divides the cores, or the accelerators and the cores, of this machine among `parallel` runs.

    Raises:
      ConfigError: there are fewer cores or chips than runs, or a TPU would be divided unevenly.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if parallel == 1:
        return [Share(frozenset(cpus), {})]
    variable, chips = accelerators()
    if chips:
        accepted = f"at most {len(chips)}, because runs do not share a chip: {','.join(chips)}"
        require(parallel <= len(chips), "--parallel", parallel, accepted)
    if variable == "TPU_VISIBLE_CHIPS":
        accepted = f"1, or {len(chips)}: a chip for each run"
        require(parallel == len(chips), "--parallel", parallel, accepted)
    accepted = f"at most {len(cpus)}, because runs do not share a core"
    require(parallel <= len(cpus), "--parallel", parallel, accepted)

    def part(items: list, number: int) -> list:
        size = len(items) // parallel
        return items[number * size : (number + 1) * size]

    bounds = ("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_PROCESS_BOUNDS")
    fixed = dict.fromkeys(bounds, "1,1,1") if variable == "TPU_VISIBLE_CHIPS" else {}
    visible = [
        {variable: ",".join(part(chips, n))} | fixed if chips else {} for n in range(parallel)
    ]
    return [Share(frozenset(part(cpus, n)), shown) for n, shown in enumerate(visible)]


def accelerators(devices: Path = Path("/dev")) -> tuple[str, list[str]]:
    """Returns the variable that hides accelerators, and the ids of the visible ones.

    The ids come from the variable, if it is set, or from the device files. jax is not asked,
    because it would reserve the accelerators.
    """
    if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return "", []
    for variable, pattern in (
        ("CUDA_VISIBLE_DEVICES", "nvidia[0-9]*"),
        ("TPU_VISIBLE_CHIPS", "accel[0-9]*"),
        ("TPU_VISIBLE_CHIPS", "vfio/[0-9]*"),
    ):
        files = sorted(devices.glob(pattern))
        chips = [str(number) for number in range(len(files))]
        if variable in os.environ:
            chips = [chip for chip in os.environ[variable].split(",") if chip not in ("", "-1")]
        if files:
            return variable, chips
    return "", []


def make_runs(
    runs: Sequence[PlannedRun],
    workdir: Path,
    parts: Sequence[Share],
    *,
    lock: int,
    summarize: Callable[[], Any],
) -> None:
    """Makes and evaluates the runs of `workdir` that are not done, one at a time in each part.

    Each process inherits `lock`, the descriptor of the sweep's lock, and holds it until it ends. If
    a run fails, the file `error.txt` in its directory keeps the last 50 lines of its stderr, and
    the other runs go on. `summarize` is called before the runs and after each.

    Raises:
      Interrupted: a signal came to this process, which passes it on, or to the process of a run.
        After this, or any other exception, all other runs have saved their state and ended.
    """
    waiting = deque(run for run in runs if state_of(run, workdir) != "done")
    free, events = list(parts), Events()
    active: list[Started] = []
    with Display(runs, workdir, parallel=len(parts)) as display:
        try:
            if waiting:
                summarize()  # `report` then knows the order of the runs
            while waiting or active:
                while waiting and free:
                    run = waiting.popleft()
                    display.began(run)
                    one = _begin(run, workdir / run.id, free.pop(0))
                    one.start_next(lock, events)
                    active.append(one)
                display.waited()
                try:
                    one, line = events.get(timeout=1)
                except Empty:
                    continue
                if line is not None:
                    display.said(one.run, line)
                    continue
                active.remove(one)
                _finish(one)
                if one.commands and not one.process.returncode:
                    one.start_next(lock, events)
                    active.append(one)
                else:
                    free.append(one.share)
                    display.ended(one.run)
                    summarize()
        except BaseException:
            for one in active:
                one.process.terminate()  # the run saves its state and ends
            while active:
                one, line = events.get()
                if line is None:
                    active.remove(one)
                else:
                    display.said(one.run, line)
            raise


def _begin(run: PlannedRun, directory: Path, share: Share) -> Started:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "error.txt").unlink(missing_ok=True)
    if not (directory / "config.json").exists():
        write_json(directory / "config.json", config.to_json(run.experiment))
    return Started(run, directory, share, missing_commands(run, directory))


def _finish(one: Started) -> None:
    if one.process.returncode == signals.STATUS:
        raise signals.Interrupted(f"{one.directory} was interrupted")
    if one.process.returncode:
        ended = f"the process ended with status {one.process.returncode}\n"  # -9: it was killed
        write_atomically(one.directory / "error.txt", "".join([*one.lines, ended]))
