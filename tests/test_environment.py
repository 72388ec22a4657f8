"""The terminal shows paths and texts as they are, whatever rich would read into them."""

import re
from pathlib import Path

import pytest
from rich.table import Table

import bert_jax
from bert_jax.environment import plain_console

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
