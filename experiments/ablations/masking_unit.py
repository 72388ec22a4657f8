"""Ablation of the unit of masking: single tokens, whole words, or spans of words.

Question: does a prediction that cannot use the other pieces of its word teach the encoder more?

    python -m bert_jax.sweep --experiment=experiments/ablations/masking_unit.py --workdir=DIR

Cost: 9 runs. A run is as long as the quick start's, about four minutes on two CPU cores.

Held-out rows have masks of single tokens, as in the base, so the losses can be compared. This
favours the base: a task is a fairer judge (`evaluations()` in docs/ablations.md).

Published: spans are better than single tokens and whole words on most of the tasks in table 6 of
Joshi et al. 2019. Devlin's models with masks of whole words are better on SQuAD and MultiNLI than
those with masks of tokens (README of google-research/bert, May 2019).

References:
  https://arxiv.org/abs/1907.10529
  https://github.com/google-research/bert
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_unit() -> Iterator[dict]:
    """Yields the three units."""
    for unit in ("token", "word", "span"):
        yield {"data.masking.unit": unit}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
