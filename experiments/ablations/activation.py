"""Ablation of the activation: two forms of GELU, ReLU and SiLU.

Question: does it matter that code bases compute GELU in different forms?

    python -m bert_jax.sweep --experiment=experiments/ablations/activation.py --workdir=DIR

Cost: 12 runs. A run is as long as the quick start's, about four minutes on two CPU cores.

Published: Hendrycks and Gimpel (2016) give the tanh form as an approximation of the exact one. They
find GELU better than ReLU on several tasks. We know of no published comparison of the two forms in
BERT's pretraining.

References:
  https://arxiv.org/abs/1606.08415
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_activation() -> Iterator[dict]:
    """Yields the four activations."""
    for activation in ("gelu_erf", "gelu_tanh", "relu", "silu"):
        yield {"model.activation": activation}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
