"""Engines write the same files, report errors in one line, and leave no process after a kill.

Apache Beam needs a separate environment without jax: `bash launch/test.sh --beam`.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import bert_jax
from bert_jax.data.preparation.engines import Engine
from bert_jax.errors import DataError, UnfinishedError

ROOT = Path(bert_jax.__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Square:
    """A minimal task: it writes the square of a number to a file."""

    path: Path
    number: int
    size: int = 1

    def run(self):
        if self.number < 0:
            raise DataError(f"{self.number} has no root; accepted: 0 or more")
        if self.number == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        self.path.write_text(str(self.number**2))
        return {"square": self.number**2}

    def finished(self):
        return {"square": int(self.path.read_text())} if self.path.exists() else None


def beam(**settings):
    pytest.importorskip("apache_beam", reason="needs pip install -e '.[beam]'")
    return Engine(kind="beam", **settings)


@pytest.fixture(
    params=[
        lambda: Engine(),
        lambda: Engine(workers=2),
        beam,
        lambda: beam(workers=2),
    ],
    ids=["here", "pool", "beam", "beam-2"],
)
def engine(request, monkeypatch):
    # The processes of Beam must find this module and the package.
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{Path(__file__).parent}")
    return request.param()


def test_every_task_is_run_and_numbered(engine, tmp_path):
    tasks = [Square(tmp_path / str(number), number) for number in (5, 3, 8)]
    results = dict(engine.run(tasks))
    assert results == {0: {"square": 25}, 1: {"square": 9}, 2: {"square": 64}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "5", "8"]
    assert list(engine.run([])) == []


@dataclasses.dataclass(frozen=True)
class Unfinished(Square):
    """A task that fails like a task on a full disk."""

    def run(self):
        raise UnfinishedError("no space left")


def test_an_unfinished_error_keeps_its_type(engine, tmp_path):
    with pytest.raises(UnfinishedError, match="^no space left$"):
        list(engine.run([Unfinished(tmp_path / "5", 5)]))


def test_an_error_in_a_task_arrives_as_one_line(engine, tmp_path):
    tasks = [Square(tmp_path / str(number), number) for number in (5, -1)]
    with pytest.raises(DataError, match="^-1 has no root; accepted: 0 or more$"):
        list(engine.run(tasks))
    assert not list(tmp_path.glob("*.error"))
    # After the correction it runs.
    tasks[1] = dataclasses.replace(tasks[1], number=1)
    assert dict(engine.run(tasks))[1] == {"square": 1}


@dataclasses.dataclass(frozen=True)
class Slow(Square):
    """A task that takes a minute, like the survey of a large file."""

    def run(self):
        time.sleep(60)


def test_an_error_in_a_pool_does_not_wait_for_other_tasks(tmp_path):
    started = time.monotonic()
    with pytest.raises(DataError, match="^-1 has no root"):
        list(Engine(workers=2).run([Slow(tmp_path / "5", 5), Square(tmp_path / "1", -1)]))
    assert time.monotonic() - started < 45


def test_a_worker_that_dies_is_an_error(tmp_path):
    tasks = [Square(tmp_path / str(number), number) for number in (5, 99)]
    with pytest.raises(DataError, match="one of 2 workers died without an error"):
        list(Engine(workers=2).run(tasks))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "import time\nfrom bert_jax.data.preparation.engines import _run_in_pool\n"
        "class Sleep:\n    def run(self): time.sleep(60)\n"
        "if __name__ == '__main__':\n    list(_run_in_pool([Sleep(), Sleep()], workers=2))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    workers = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        children = psutil.Process(parent.pid).children()
        workers = [one for one in children if "spawn_main" in " ".join(one.cmdline())]
        time.sleep(0.1)
    assert len(workers) == 2
    time.sleep(3)  # the workers receive their tasks
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        worker.kill()
    assert len(gone) == 2


def test_a_missing_beam_is_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[beam\]'"):
        list(Engine(kind="beam").run([Square(tmp_path / "a", 1)]))
