"""Every reader of foreign files reads a damaged file, or raises its error in one line.

  python -m pytest tests/fuzz --fuzz_seconds=60 --fuzz_seed=1 -k torch

A failure names reader, seed and case; `worker.fuzz(name, seed, 0, case)` repeats it.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
import worker
from readers import READERS


class Child:
    """A process that reads damaged files. A crash of native code ends it, and not pytest."""

    def __init__(self, directory):
        self._directory, self._pool = directory, None

    def run(self, *arguments, seconds):
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            start = {"initializer": worker.start, "initargs": (str(self._directory),)}
            self._pool = ProcessPoolExecutor(1, mp_context=context, **start)
        try:
            return self._pool.submit(worker.fuzz, *arguments).result(timeout=seconds + 60)
        except (BrokenProcessPool, TimeoutError) as error:
            for process in self._pool._processes.values():
                process.kill()
            self.close()
            case = (self._directory / "case").read_text()
            raise AssertionError(f"{case}: the process crashed, or does not answer") from error

    def close(self):
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    child = Child(tmp_path_factory.mktemp("fuzz"))
    yield child
    child.close()


@pytest.mark.parametrize("seconds", [0.2, pytest.param(5.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, seconds, child, pytestconfig):
    seconds = pytestconfig.getoption("fuzz_seconds") or seconds
    seed = pytestconfig.getoption("fuzz_seed")
    assert child.run(name, seed, seconds, seconds=seconds) >= 1
