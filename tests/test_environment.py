"""The terminal shows paths and texts as they are, and how far a command is."""

import re
import threading
import time
from pathlib import Path

import pytest
from rich.table import Table

import bert_jax
from bert_jax import environment
from bert_jax.environment import plain_console, progress

PACKAGE = Path(bert_jax.__file__).parent
PATHS = ["mk/[/b]", "mk/a[red]b", "mk/:smile:", "[link=x]"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_printed_as_it_is(path, capsys):
    plain_console(stderr=True).print(f"{path}: going on", soft_wrap=True)
    table = Table("id", caption=path)
    table.add_row(path)
    plain_console().print(table)
    found = capsys.readouterr()
    assert found.err == f"{path}: going on\n"
    assert found.out.count(path) == 2


def test_no_module_makes_a_console_of_its_own():
    makers = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\bConsole\(", path.read_text(encoding="utf-8"))
    ]
    assert makers == ["environment.py"]


def test_off_a_terminal_lines_say_how_far_a_command_is(monkeypatch, capsys):
    monkeypatch.setattr(environment, "SECONDS", 0.02)
    threads = threading.active_count()
    with progress() as report:
        time.sleep(0.1)
        assert capsys.readouterr().err == ""  # nothing was reported
        report("reading", 2, 4)
        said, end = "", time.monotonic() + 60
        while said.count("\n") < 2 and time.monotonic() < end:
            time.sleep(0.02)
            said += capsys.readouterr().err
        assert said.startswith("reading: 50%\n" * 2)
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.02)
    assert threading.active_count() == threads  # the lines have ended


def test_a_command_that_ends_soon_prints_no_line(capsys):
    with progress() as report:
        report("reading", 1, 4)
    assert capsys.readouterr() == ("", "")
