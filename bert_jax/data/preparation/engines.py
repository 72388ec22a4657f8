"""Runs tasks in this process, in a pool of processes, or on Apache Beam.

A task writes its result to a file, and `Task.finished` reads the file. With Beam, the results of
the tasks are read from these files. The files are the same with every engine.
"""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Literal, Protocol

from bert_jax.errors import DataError, UnfinishedError, needing
from bert_jax.files import write_atomically


class Task(Protocol):
    """A task that writes files. Their content depends only on the task's fields and its text."""

    def run(self) -> dict:
        """Writes the files of the task, each atomically, and returns the result."""
        ...

    def finished(self) -> dict | None:
        """Returns the result if the files exist, otherwise None."""
        ...

    @property
    def path(self) -> Path:
        """The main file of the task; messages name it."""
        ...

    @property
    def size(self) -> int:
        """Number of bytes of text to read."""
        ...


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How tasks are run."""

    kind: Literal["pool", "beam"] = "pool"
    workers: int = 1
    """Number of processes. Beam's runners except DirectRunner read it in `beam_options`."""
    beam_options: tuple[str, ...] = ()
    """Options of Beam's command line: `--runner=DataflowRunner`, `--project=...`."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, dict]]:
        """Runs the tasks; yields (number of the task, result) as each finishes.

        Raises:
          DataError: a task failed, or a worker died.
        """
        if self.kind == "beam":
            return _run_on_beam(tasks, workers=self.workers, options=self.beam_options)
        if self.workers == 1:
            return ((number, task.run()) for number, task in enumerate(tasks))
        return _run_in_pool(tasks, workers=self.workers)


def _run_in_pool(tasks: Sequence[Task], *, workers: int) -> Iterator[tuple[int, dict]]:
    # Workers are spawned, not forked, because the parent may have threads of JAX.
    context, others = get_context("spawn"), active_children()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
        try:
            futures = {pool.submit(task.run): number for number, task in enumerate(tasks)}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except (KeyboardInterrupt, GeneratorExit, DataError):
            for worker in set(active_children()).difference(others):
                worker.terminate()  # do not wait for the files that it writes
            raise
        except BrokenProcessPool as error:
            raise UnfinishedError(
                f"one of {workers} workers died without an error, perhaps for lack of memory; run "
                "the command again with fewer workers: finished shards are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Makes this worker end when its parent ends or is killed, and end silently on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _run_on_beam(
    tasks: Sequence[Task], *, workers: int, options: Sequence[str]
) -> Iterator[tuple[int, dict]]:
    with needing("--engine=beam, in an environment of its own,", "beam"):
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
            PipelineOptions,
        )
    if not tasks:
        return
    if not any(option.startswith("--runner") for option in options):
        direct = ["--runner=DirectRunner", f"--direct_num_workers={workers}"]
        if workers > 1:
            direct.append("--direct_running_mode=multi_processing")
        options = [*direct, *options]
    # Beam cannot check the type of a Protocol.
    options = ["--no_pipeline_type_check", *options]
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        _ = pipeline | beam.Create(list(tasks)) | beam.Reshuffle() | beam.Map(_run_or_report)
    failed = [path for path in map(_error_path, tasks) if path.exists()]
    errors = [path.read_text(encoding="utf-8") for path in failed]
    for path in failed:
        path.unlink()
    if errors:
        kind, _, said = errors[0].partition("\n")
        raise UnfinishedError(said) if kind == UnfinishedError.__name__ else DataError(said)
    for number, task in enumerate(tasks):
        if (result := task.finished()) is None:
            raise DataError(
                f"{task.path} does not exist after Beam's run; accepted: a directory that every "
                "worker and this process see under the same name"
            )
        yield number, result


def _run_or_report(task: Task) -> None:
    """Runs a task. Writes a DataError to a file, because Beam would retry a task that raises."""
    _error_path(task).unlink(missing_ok=True)
    try:
        task.run()
    except DataError as error:
        write_atomically(_error_path(task), f"{type(error).__name__}\n{error}")


def _error_path(task: Task) -> Path:
    return task.path.with_suffix(".error")
