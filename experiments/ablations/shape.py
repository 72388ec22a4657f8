"""Ablation of the encoder's shape: depth against width at equal FLOPs.

Question: at a given cost, is a deeper and narrower encoder better?

    python -m bert_jax.sweep --experiment=experiments/ablations/shape.py --workdir=DIR

Cost: 12 runs. A run is as long as the quick start's, about four minutes on two CPU cores.

The FLOPs of the output layer over the vocabulary count. A narrow encoder saves them, too.

Published: below a width that depends on the depth, more depth does not help (Levine et al. 2020).
At equal FLOPs, deeper and narrower models are often better on tasks (Tay et al. 2021).

References:
  https://arxiv.org/abs/2006.12467
  https://arxiv.org/abs/2109.10686
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_shape() -> Iterator[dict]:
    """Yields one to eight layers, with heads of 64 dimensions or 32."""
    for layers, width, heads in ((1, 256, 4), (2, 192, 6), (4, 128, 4), (8, 128, 4)):
        yield {
            "model.num_layers": layers,
            "model.hidden_size": width,
            "model.num_heads": heads,
        }


def budget() -> dict[str, float]:
    """Returns the FLOPs of the quick start."""
    return {"flops": 1.8e13}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
