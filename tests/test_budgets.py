"""Limits on the size of the package, so that a newcomer can read the core in an hour."""

import ast
from pathlib import Path

import bert_jax

PACKAGE = Path(bert_jax.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TRAIN = PACKAGE / "training" / "train.py"

LINES_OF_THE_PACKAGE = 28_150
LINES_OF_THE_CORE = 4_820
LINES_OF_A_MODULE = 350
LINES_OF_TRAIN = 100
LINES_OF_A_FUNCTION = 60
"""Without its docstring: a screen of code."""
MODULES_OF_A_FOLDER = 17


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def lines_of_node(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


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
        modules = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
        assert len(modules) <= MODULES_OF_A_FOLDER, folder


def test_train_reads_as_one_page():
    (train,) = (one for one in functions(TRAIN) if one.name == "train")
    assert lines_of_node(train) <= LINES_OF_TRAIN


def test_other_functions_fit_a_screen():
    too_long = {}
    for path in MODULES:
        for function in functions(path):
            docstring = lines_of_node(function.body[0]) if ast.get_docstring(function) else 0
            length = lines_of_node(function) - docstring
            if length > LINES_OF_A_FUNCTION and (path, function.name) != (TRAIN, "train"):
                too_long[f"{path.name}:{function.name}"] = length
    assert not too_long, f"split it or simplify it: at most {LINES_OF_A_FUNCTION} lines"
