"""Ablation of packing: several short pairs in a row, or one pair and padding.

Question: does an update of the same cost teach more if padding is replaced by further pairs?

    for variant in padded packed; do
      python -m bert_jax.prepare --experiment=experiments/ablations/packing.py:$variant
    done
    python -m bert_jax.sweep --experiment=experiments/ablations/packing.py --workdir=DIR

Cost: 6 runs. A run has twice the FLOPs of the quick start's, which takes about four minutes on two
CPU cores.

The rows have 128 tokens, and half of the pairs are short. Held-out rows are never packed, so both
points are evaluated on the same rows.

Published: up to half of the tokens of BERT's data are padding, and packing halves the time of
training with rows of 512 tokens (Krell et al. 2021). Packed pairs do not see each other, so the
model stays the same function.

References:
  https://arxiv.org/abs/2107.02027
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from bert_jax import Experiment
from bert_jax.config import load_experiment, override


def get_config(variant: Literal["padded", "packed"] = "padded") -> Experiment:
    """Returns the quick start with longer rows, of which half hold short pairs."""
    base = load_experiment(Path(__file__).parents[1] / "quickstart.py")
    longer = {
        "data.sequence_length": 128,
        "data.batch_size": 16,
        "data.short_sequence_probability": 0.5,
        "data.masking.max_predictions": 19,  # round(128 * 0.15)
        "data.evaluation_masking.max_predictions": 19,
    }
    return override(base, longer | changes(variant))


def changes(variant: str) -> dict:
    """Returns the number of pairs in a row and the directory of their data."""
    pairs = 4 if variant == "packed" else 1
    return {"data.pairs_per_row": pairs, "data.directory": f"data/packing-{variant}"}


def sweep_packing() -> Iterator[dict]:
    """Yields rows without and with packing."""
    for variant in ("padded", "packed"):
        yield changes(variant)


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
