"""Ablation of the masking rate: 15 % as published, or more.

Question: do more predictions for each text make up for a text that is harder to read?

    python -m bert_jax.sweep --experiment=experiments/ablations/masking_rate.py --workdir=DIR

Cost: 12 runs. A run has up to 1.5 times the FLOPs of the quick start's, which takes about four
minutes on two CPU cores.

Held-out rows always have a masking rate of 15 %, so the held-out losses can be compared.

Published: for models of the size of BERT-large, 40 % is better than 15 % (Wettig et al. 2022).

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
