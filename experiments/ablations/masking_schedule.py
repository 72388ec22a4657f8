"""Ablation of a masking rate that falls during training.

Question: is a rate that falls from 30 to 15 % better than a constant rate of 15 % or 30 %?

    python -m bert_jax.sweep --experiment=experiments/ablations/masking_schedule.py --workdir=DIR

Cost: 12 runs. A run has at most 1.2 times the FLOPs of the quick start's, which takes about four
minutes on two CPU cores. The last point is a control: a rate that rises has the same mean as one
that falls.

Held-out rows always have a rate of 15 %.

Published: a rate that falls linearly improves the mean GLUE accuracy of BERT-base by up to 0.46
points over constant rates (Ankner et al. 2023).

References:
  https://arxiv.org/abs/2305.15096
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_schedule() -> Iterator[dict]:
    """Yields rates at the start and at the end of training, each with the limit for 32 tokens."""
    for start, end in ((0.15, 0.15), (0.3, 0.3), (0.3, 0.15), (0.15, 0.3)):
        points = () if start == end else ((1.0, end),)
        yield {
            "data.masking.rate": start,
            "data.masking.rate_points": points,
            "data.masking.max_predictions": round(32 * max(start, end)),
        }


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
