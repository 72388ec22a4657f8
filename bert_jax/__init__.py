"""bert_jax: pretraining BERT in JAX and Flax, with every number traceable.

Importing bert_jax does not import jax, because worker processes of `prepare` must not start jax.
"""

import importlib
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert_jax.runs.comparison import compare
    from bert_jax.runs.load import load_run
    from bert_jax.runs.run import Run
    from bert_jax.training.experiment import Experiment

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # `python -m` starts a command. Until it handles signals, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

__version__ = "0.1.0"

__all__ = ["Experiment", "Run", "compare", "load_run"]

_MODULES = {
    "Experiment": "bert_jax.training.experiment",
    "Run": "bert_jax.runs.run",
    "compare": "bert_jax.runs.comparison",
    "load_run": "bert_jax.runs.load",
}


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
