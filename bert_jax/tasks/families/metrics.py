"""Metrics of a set from the outcomes of its examples; scikit-learn's and SciPy's where they are.

Where a metric is undefined, as a correlation of constants is, it is 0.
"""

import importlib.util
import math
import warnings
from typing import Any

import numpy as np

from bert_jax.errors import ConfigError
from bert_jax.tasks.families.family import Outcomes

PREDICTED, GOLD = 0, 1
"""Columns of the outcomes of a classification or regression."""


def check_installed() -> None:
    """Raises ConfigError where a library that measures is not there."""
    for name in ("sklearn", "scipy"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"tasks are measured with {name}: pip install 'bert_jax[tasks]'")


def accuracy(outcomes: Outcomes) -> float:
    """Share of predictions that are the gold label."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(outcomes[:, GOLD], outcomes[:, PREDICTED]))


def f1(outcomes: Outcomes) -> float:
    """Of the label number 1, as MRPC and QQP are measured."""
    return _f1(outcomes == 1, average="binary")


def macro_f1(outcomes: Outcomes) -> float:
    """The mean over labels of the F1 of each."""
    return _f1(outcomes, average="macro")


def _f1(outcomes: np.ndarray, *, average: str) -> float:
    from sklearn.metrics import f1_score

    predicted, gold = outcomes[:, PREDICTED], outcomes[:, GOLD]
    # Its annotation of zero_division leaves numbers out.
    zero: Any = 0.0
    return float(f1_score(gold, predicted, average=average, zero_division=zero))


def matthews(outcomes: Outcomes) -> float:
    """Matthews correlation coefficient, as CoLA is measured."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(outcomes[:, GOLD], outcomes[:, PREDICTED]))


def pearson(outcomes: Outcomes) -> float:
    """Correlation of predicted and gold numbers."""
    from scipy import stats

    return _defined(stats.pearsonr, outcomes)


def spearman(outcomes: Outcomes) -> float:
    """Correlation of their ranks."""
    from scipy import stats

    return _defined(stats.spearmanr, outcomes)


def _defined(correlation, outcomes: Outcomes) -> float:
    if len(outcomes) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is undefined for constants: it is nan then
        value = float(correlation(outcomes[:, PREDICTED], outcomes[:, GOLD])[0])
    return value if math.isfinite(value) else 0.0


def mean_of(column: int):
    """Returns the metric that is the mean of a column."""
    return lambda outcomes: float(np.mean(outcomes[:, column]))
