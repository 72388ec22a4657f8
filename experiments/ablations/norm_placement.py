"""Ablation of the place of LayerNorm: after each block, as in BERT, or before it (pre-norm).

Question: does a pre-norm encoder learn more than BERT, and does it need another learning rate?

    python -m bert_jax.prepare --experiment=experiments/ablations/norm_placement.py
    python -m bert_jax.sweep --experiment=experiments/ablations/norm_placement.py --workdir=DIR

Cost: 12 runs of about 2e13 FLOPs each. A run has half of the updates of both_losses.py: 1,500 with
short rows and 1,000 with long rows. In so few updates, no encoder learns the pair task.

experiments/own_parts/pre_norm.py defines the pre-norm encoder. It has one LayerNorm more, after the
last layer. All else, also the embeddings with their LayerNorm, is that of both_losses.py.

Result of these runs (docs/results.md): at the same rate, three seeds cannot tell. Half of the rate
is worse for both encoders by about 0.9 nats.

Published: Xiong et al. (2020, https://arxiv.org/abs/2002.04745) train a pre-norm BERT-base without
warm-up. It reaches a given validation loss in fewer updates than BERT with warm-up.
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment, override

EXPERIMENTS = Path(__file__).parents[1]


def get_config() -> Experiment:
    """Returns the experiment of both_losses.py with half of its updates."""
    base = load_experiment(EXPERIMENTS / "both_losses.py")
    return override(base, {"training.steps": 2500, "phases.0.steps": 1000})


def sweep_model() -> Iterator[dict]:
    """Yields BERT and the pre-norm encoder."""
    yield {"model": get_config().model}
    yield {"model": load_experiment(EXPERIMENTS / "own_parts" / "pre_norm.py").model}


def sweep_rate() -> Iterator[dict]:
    """Yields the rate of both_losses.py, and half of it."""
    for rate in (1.2e-3, 6e-4):
        yield {"optimizer.learning_rate": rate}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
