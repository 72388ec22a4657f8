"""Shows the progress of a sweep: a live table on a terminal, and lines elsewhere."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.live import Live
from rich.table import Table

from bert_jax import environment
from bert_jax.faults.run_files import read_rows
from bert_jax.sweeps.grid import PlannedRun, describe
from bert_jax.sweeps.runs import state_of


class Display:
    """A context manager that shows which runs are being made.

    On a terminal, a table has the last values of each run. Elsewhere, stdout gets a line when a run
    begins, and stderr gets the lines of the runs. If several runs are made at a time, their ids
    precede these lines.
    """

    def __init__(self, runs: Sequence[PlannedRun], workdir: Path, *, parallel: int):
        self._runs, self._workdir, self._parallel = list(runs), workdir, parallel
        self._active: list[PlannedRun] = []
        self._console = environment.plain_console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self):
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_):
        self._live.stop()

    def began(self, run: PlannedRun) -> None:
        self._active.append(run)
        number = f"{self._runs.index(run) + 1} of {len(self._runs)}"
        print(f"run {number}: {run.id} {describe(run.overrides)}", flush=True)

    def said(self, run: PlannedRun, line: str) -> None:
        if not self._live.is_started:
            sys.stderr.write(f"{run.id} {line}" if self._parallel > 1 else line)

    def ended(self, run: PlannedRun) -> None:
        self._active.remove(run)
        if state_of(run, self._workdir) == "failed":
            print(f"{run.id} failed: see {self._workdir / run.id / 'error.txt'}", file=sys.stderr)

    def waited(self) -> None:
        if self._live.is_started:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        states = Counter(state_of(run, self._workdir) for run in self._runs)
        states["begun"] -= len(self._active)
        counts = [f"{len(self._active)} at work", *(f"{n} {s}" for s, n in states.items() if n > 0)]
        table = Table(title=f"{len(self._runs)} runs: {', '.join(counts)}", title_justify="left")
        for name in ("run", "overrides", "step", "mlm_loss", "tokens/s"):
            right = name not in ("run", "overrides")
            table.add_column(name, justify="right" if right else "left", no_wrap=right)
        for run in self._active:
            file = self._workdir / run.id / "metrics.jsonl"
            rows = list(read_rows(file).rows.values()) if file.exists() else []
            last = rows[-1] if rows else {}
            loss, rate = last.get("train/mlm_loss"), last.get("perf/tokens_per_second")
            table.add_row(
                run.id,
                describe(run.overrides),
                f"{last.get('step', 0)} of {run.experiment.training.steps}",
                "" if loss is None else f"{loss:.3f}",
                "" if rate is None else f"{rate:,.0f}",
            )
        return table
