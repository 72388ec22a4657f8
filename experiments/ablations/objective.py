"""Ablation of next-sentence prediction (table 5 of Devlin et al. 2018).

The model and the data are those of the quick start.

    python -m bert_jax.sweep --experiment=experiments/ablations/objective.py --workdir=DIR
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_objective() -> Iterator[dict]:
    """Yields training with and without the pair loss.

    Without the pair loss, no pair accuracy is reported.
    """
    for next_sentence in (True, False):
        yield {"objective.next_sentence": next_sentence}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
