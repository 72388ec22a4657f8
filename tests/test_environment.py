"""The terminal shows paths and texts as they are, and how far a command is."""

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from rich.table import Table

import bert_jax
from bert_jax import environment
from bert_jax.environment import commit_and_changes, plain_console, progress

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


# ---- The record of the code ----------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path):
    """A repository with one file in Latin-1 and an ignored directory. `git` runs in it."""

    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a"]
        return subprocess.run([*command, *arguments], check=True, capture_output=True).stdout

    (tmp_path / "names.txt").write_bytes("café\n".encode("latin-1"))
    (tmp_path / ".gitignore").write_text(".venv\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message=first")
    return tmp_path, git("rev-parse", "HEAD").decode().strip()


def test_a_change_of_a_file_that_is_not_utf_8_is_recorded(repository):
    directory, commit = repository
    assert commit_and_changes(directory) == (commit, None)
    digests = []
    for text in ("crème", "brûlée"):
        (directory / "names.txt").write_bytes(text.encode("latin-1"))
        assert (found := commit_and_changes(directory))[0] == commit
        digests.append(found[1])
    assert digests[0] != digests[1] and None not in digests


def test_the_commit_of_another_project_is_not_that_of_an_installed_copy(repository):
    directory, _ = repository
    (directory / ".venv").mkdir()
    (directory / ".venv" / "copy.py").write_text("")
    assert commit_and_changes(directory / ".venv") == (None, None)
    assert commit_and_changes(directory.parent) == (None, None)  # no repository
