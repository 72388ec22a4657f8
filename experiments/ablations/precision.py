"""Ablation of the precision of activations, matrix products and gradients.

Question: does training in bfloat16 change the loss?

    python -m bert_jax.sweep --experiment=experiments/ablations/precision.py --workdir=DIR

Cost: 9 runs. A run is as long as the quick start's, about four minutes on two CPU cores. On a CPU,
bfloat16 saves no time.

Parameters, softmax, LayerNorm and losses are always float32.

Published: models trained in bfloat16 reach the results of float32 with the same hyper-parameters
(Kalamkar et al. 2019).

References:
  https://arxiv.org/abs/1905.12322
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_precision() -> Iterator[dict]:
    """Yields float32, bfloat16, and bfloat16 with gradients in bfloat16."""
    for dtype, gradients in (
        *(("float32", "float32"), ("bfloat16", "float32")),
        ("bfloat16", "bfloat16"),
    ):
        yield {"model.dtype": dtype, "training.gradient_dtype": gradients}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
