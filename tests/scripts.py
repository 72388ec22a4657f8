"""Access to the scripts of benchmarks/, which is not a package."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import bert_jax

BENCHMARKS = Path(bert_jax.__file__).parents[1] / "benchmarks"


def load_script(name: str) -> ModuleType:
    """Returns benchmarks/NAME.py as a module. The scripts import one another by name."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    return importlib.import_module(name)
