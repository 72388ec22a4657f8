"""Ablation of the optimizer: BERT's AdamW, AdamW with bias correction, and LAMB.

Question: does the optimizer matter if each gets its own learning rate?

    python -m bert_jax.sweep --experiment=experiments/ablations/optimizer.py --workdir=DIR

Cost: 27 runs. A run is as long as the quick start's, about four minutes on two CPU cores.

Each optimizer is trained at three rates. Compare the best rate of each. The best of three is too
good: repeat the winners with new seeds before you publish.

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
    """Yields three optimizers at three learning rates."""
    corrected = {"optimizer.bias_correction": True, "optimizer.decay_from": "warmup_end"}
    for fields, rates in (
        ({"optimizer.name": "adamw"}, (3e-4, 6e-4, 1.2e-3)),
        ({"optimizer.name": "adamw"} | corrected, (3e-4, 6e-4, 1.2e-3)),
        ({"optimizer.name": "lamb"} | corrected, (2e-3, 4e-3, 8e-3)),
    ):
        for rate in rates:
            yield fields | {"optimizer.learning_rate": rate}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
