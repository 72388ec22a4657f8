r"""Ablation of the representation of a sentence, on the sentiment of film reviews.

Question: which vector of the encoder should an output layer for a whole text get?

    python benchmarks/task_sets.py --output=data/tasks --only=movie_sentiment
    for variant in cls pooled mean max last4; do
      python -m bert_jax.finetune --checkpoint=all-MiniLM-L6-v2 --seeds=3 \
        --experiment=experiments/finetune/representation.py:$variant \
        --workdir=runs/representation/$variant
    done

Cost: 15 fine-tunings, each as long as one of movie_sentiment.py, which has the measured times.

The encoder stays the same, so this is no sweep of pretraining. Each run prints the mean and the
interval of its seeds. MiniLM was trained without its pooler, so `pooled` starts from an untrained
pooler.

Published: of `cls`, `mean` and `max`, the mean is best for sentence vectors, and the maximum is far
worse on similarities (table 6 of Reimers and Gurevych 2019). With a frozen encoder, several upper
layers are better than the last one for tagging names (table 7 of Devlin et al. 2018).

References:
  https://arxiv.org/abs/1908.10084
  https://arxiv.org/abs/1810.04805
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from bert_jax.config import load_experiment
from bert_jax.tasks.config import FineTuningConfig


def get_config(
    variant: Literal["cls", "pooled", "mean", "max", "last4"] = "cls",
) -> FineTuningConfig:
    """Returns the fine-tuning with one representation."""
    config = load_experiment(Path(__file__).parent / "movie_sentiment.py")
    return replace(config, task=replace(config.task, representation=variant))
