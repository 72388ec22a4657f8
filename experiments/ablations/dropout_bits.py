"""Ablation of the source of dropout's random bits: an A/A comparison.

Question: does a sweep say "cannot tell" if its two points differ in nothing but random numbers?

    python -m bert_jax.prepare --experiment=experiments/quickstart.py
    python -m bert_jax.sweep --experiment=experiments/ablations/dropout_bits.py --workdir=DIR

Cost: 16 runs. A run has a third of the updates of the quick start: about a minute on two CPU cores.

`model.dropout_bits` is `hash`, a hash of the position of an element, or `threefry`, jax's
generator. Both drop an element with the same probability, so no seed should prefer one of them.

Result of these runs (docs/results.md): the sweep cannot tell them apart by any metric.

Published: nothing that we know of. A comparison that calls these points different in more than 5 %
of such sweeps would be wrong about other points, too.
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment, override


def get_config() -> Experiment:
    """Returns the quick start's experiment with dropout and fewer updates."""
    base = load_experiment(Path(__file__).parents[1] / "quickstart.py")
    dropout = {"model.dropout": 0.1, "model.attention_dropout": 0.1}
    return override(base, dropout | {"training.steps": 1000})


def sweep_bits() -> Iterator[dict]:
    """Yields both sources."""
    for bits in ("hash", "threefry"):
        yield {"model.dropout_bits": bits}


def sweep_seed() -> Iterator[dict]:
    """Yields eight seeds."""
    for seed in range(8):
        yield {"seed": seed}
