"""Ablation of the loss of next-sentence prediction, on the same pairs.

Question: does the pair loss help or harm the masked language model? pair_task.py asks what it does
for tasks.

    python -m bert_jax.sweep --experiment=experiments/ablations/objective.py --workdir=DIR

Cost: 6 runs. A run is as long as the quick start's, about four minutes on two CPU cores.

Published: without next-sentence prediction, BERT-base is worse on QNLI, MNLI and SQuAD 1.1 (table 5
of Devlin et al. 2018).

References:
  https://arxiv.org/abs/1810.04805
"""

from collections.abc import Iterator
from pathlib import Path

from bert_jax import Experiment
from bert_jax.config import load_experiment


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return load_experiment(Path(__file__).parents[1] / "quickstart.py")


def sweep_objective() -> Iterator[dict]:
    """Yields training with and without the pair loss.

    Without the pair loss, no pair accuracy is reported.
    """
    for next_sentence in (True, False):
        yield {"objective.next_sentence": next_sentence}


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
