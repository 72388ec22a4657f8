"""The scripts of benchmarks/, which are no package."""

import importlib.util
from pathlib import Path
from types import ModuleType

import bert_jax

BENCHMARKS = Path(bert_jax.__file__).parents[1] / "benchmarks"


def load_script(name: str) -> ModuleType:
    """Returns benchmarks/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
