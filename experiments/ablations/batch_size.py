"""Ablation of the batch size at equal tokens, with a learning rate that grows with it.

Question: how far can the batch grow at a given number of tokens before the loss gets worse?

    python -m bert_jax.sweep --experiment=experiments/ablations/batch_size.py --workdir=DIR

Cost: 12 runs. A run is as long as the quick start's, about four minutes on two CPU cores.

The rate grows with the root of the batch size. The warm-up is the same share of the steps.

Published: RoBERTa has a lower perplexity with 2,048 rows than with 256 or 8,192 rows at an equal
number of passes over the data, each with its own rate (Liu et al. 2019, table 3). The root is the
rule of You et al. 2019 for LAMB.

References:
  https://arxiv.org/abs/1907.11692
  https://arxiv.org/abs/1904.00962
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_batch() -> Iterator[dict]:
    """Yields batches of 32 to 256 rows."""
    for growth in (1, 2, 4, 8):
        yield {
            "data.batch_size": 32 * growth,
            "optimizer.learning_rate": 6e-4 * growth**0.5,
            "optimizer.warmup_steps": 200 // growth,
        }


def budget() -> dict[str, float]:
    """Returns the tokens of the quick start: 3,000 batches of 32 rows of 32 tokens."""
    return {"tokens": 3000 * 32 * 32}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
