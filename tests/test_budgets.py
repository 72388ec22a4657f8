"""Limits on the size of the package, so that a newcomer can read the core in an hour."""

import ast
from pathlib import Path

import bert_jax

PACKAGE = Path(bert_jax.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

LINES_OF_THE_PACKAGE = 19_500
LINES_OF_THE_CORE = 4_300
LINES_OF_A_MODULE = 350
LINES_OF_TRAIN = 100
MODULES_OF_A_FOLDER = 16


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_the_package_keeps_its_budget():
    assert len(MODULES) > 80
    assert sum(map(lines, MODULES)) <= LINES_OF_THE_PACKAGE


def test_the_core_keeps_its_budget():
    """The core is what trains a model: training/, models/ and sharding.py."""
    folders = (PACKAGE / "training", PACKAGE / "models")
    core = [path for path in MODULES if path.parent in folders] + [PACKAGE / "sharding.py"]
    assert len(core) > 20
    assert sum(map(lines, core)) <= LINES_OF_THE_CORE


def test_no_module_is_too_long():
    too_long = {path.name: lines(path) for path in MODULES if lines(path) > LINES_OF_A_MODULE}
    assert not too_long, f"split it or simplify it: at most {LINES_OF_A_MODULE} lines"


def test_no_folder_has_too_many_modules():
    for folder in {path.parent for path in MODULES}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MODULES_OF_A_FOLDER, folder


def test_train_reads_as_one_page():
    tree = ast.parse((PACKAGE / "training" / "train.py").read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    train = functions["train"]
    assert train.end_lineno is not None
    assert train.end_lineno - train.lineno + 1 <= LINES_OF_TRAIN
