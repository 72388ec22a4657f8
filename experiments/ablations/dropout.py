"""Ablation of dropout in pretraining.

Question: does dropout help a model that sees each text about once?

    python -m bert_jax.sweep --experiment=experiments/ablations/dropout.py --workdir=DIR

Cost: 9 runs. Dropout makes a run of the quick start, four minutes on two CPU cores, somewhat
longer.

Published: without dropout, ALBERT's largest model has a better masked accuracy and is better on
tasks (Lan et al. 2019). Geiping and Goldstein (2022) train without dropout, because each text is
seen once.

References:
  https://arxiv.org/abs/1909.11942
  https://arxiv.org/abs/2212.14034
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_dropout() -> Iterator[dict]:
    """Yields no dropout, dropout of the activations, and dropout of the attention as well."""
    for rate, attention in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.1)):
        yield {"model.dropout": rate, "model.attention_dropout": attention}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
