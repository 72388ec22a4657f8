r"""Ablation of the representation of a sentence, on the sentiment of film reviews.

    python -m bert_jax.finetune --experiment=experiments/finetune/representation.py:max \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/representation/max --seeds=3

MiniLM was trained without its pooler, so `pooled` starts from an untrained pooler.
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
