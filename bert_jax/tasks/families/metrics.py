"""Computes a split's metrics from its examples' outcomes, mostly with scikit-learn and SciPy.

An undefined metric, such as the correlation of a constant, is 0.
"""

import importlib.util
import math
import warnings
from typing import Any, Literal

import numpy as np

from bert_jax.errors import ConfigError
from bert_jax.tasks.families.family import Outcomes

PREDICTED, GOLD = 0, 1
"""Columns of the outcomes of classification, regression and multiple choice."""


def check_installed() -> None:
    """Raises ConfigError if scikit-learn or SciPy is not installed."""
    for name in ("sklearn", "scipy"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"tasks are measured with {name}: pip install -e '.[tasks]'")


def accuracy(outcomes: Outcomes) -> float:
    """Returns the fraction of correct predictions."""
    return float(np.mean(outcomes[:, PREDICTED] == outcomes[:, GOLD]))


def f1(outcomes: Outcomes, *, average: Literal["binary", "macro"]) -> float:
    """Returns the F1 of label 1 (binary, for MRPC, QQP) or the mean F1 of all labels (macro)."""
    from sklearn.metrics import f1_score

    outcomes = outcomes == 1 if average == "binary" else outcomes
    zero: Any = 0.0  # scikit-learn's annotation of zero_division accepts only strings
    gold, predicted = outcomes[:, GOLD], outcomes[:, PREDICTED]
    return float(f1_score(gold, predicted, average=average, zero_division=zero))


def matthews(outcomes: Outcomes) -> float:
    """Returns the Matthews correlation coefficient, the metric of CoLA."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(outcomes[:, GOLD], outcomes[:, PREDICTED]))


def correlation(outcomes: Outcomes, *, kind: Literal["pearsonr", "spearmanr"]) -> float:
    """Returns the correlation of predicted and gold numbers (Pearson) or ranks (Spearman)."""
    from scipy import stats

    if len(outcomes) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns about constants and returns nan
        value = float(getattr(stats, kind)(outcomes[:, PREDICTED], outcomes[:, GOLD])[0])
    return value if math.isfinite(value) else 0.0
