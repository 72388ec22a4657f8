"""Ablation of the masking rate: 15 % as published, or more (Wettig et al. 2022).

The model and the data are those of the quick start.

    python -m bert_jax.sweep --experiment=experiments/ablations/masking_rate.py --workdir=DIR

Held-out rows always have a masking rate of 15 %, so the held-out losses can be compared.

References:
  https://arxiv.org/abs/2202.08005
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_masking() -> Iterator[dict]:
    """Yields masking rates of 15 to 60 %, each with the limit for rows of 32 tokens."""
    for rate in (0.15, 0.3, 0.45, 0.6):
        yield {"data.masking.rate": rate, "data.masking.max_predictions": round(32 * rate)}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
