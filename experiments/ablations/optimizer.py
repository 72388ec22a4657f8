"""Ablation of the optimizer: BERT's AdamW, AdamW with bias correction, and LAMB.

Question: does the optimizer matter if each gets its own learning rate?

    python -m bert_jax.sweep --experiment=experiments/ablations/optimizer.py --workdir=DIR

Cost: 9 runs, and 15 trials of learning rates. A run and a trial are as long as a run of the quick
start, about four minutes on two CPU cores.

Each optimizer tries the same five rates, and its compared runs get the best of them. LAMB needs a
higher rate than AdamW, so the rates cover what is usual for both.

Published: LAMB trains BERT in 76 minutes with batches of up to 65,536 rows (You et al. 2019). With
tuned rates, standard optimizers reach the same results as LAMB (Nado et al. 2021).

References:
  https://arxiv.org/abs/1904.00962
  https://arxiv.org/abs/2102.06356
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_optimizer() -> Iterator[dict]:
    """Yields three optimizers."""
    corrected = {"optimizer.bias_correction": True, "optimizer.decay_from": "warmup_end"}
    yield {"optimizer.name": "adamw"}
    yield {"optimizer.name": "adamw"} | corrected
    yield {"optimizer.name": "lamb"} | corrected


def tune_over() -> Iterator[dict]:
    """Yields the learning rates that each optimizer tries."""
    for rate in (3e-4, 6e-4, 1.2e-3, 2.4e-3, 4.8e-3):
        yield {"optimizer.learning_rate": rate}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
