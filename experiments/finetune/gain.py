r"""What pretraining on the mix is worth: the model of experiments/mix.py, pretrained and not.

    python -m bert_jax.finetune --experiment=experiments/finetune/gain.py:movie_sentiment \
      --checkpoint=runs/mix --workdir=runs/gain/sentiment --seeds=3
    python -m bert_jax.finetune --experiment=experiments/finetune/gain.py:movie_sentiment \
      --checkpoint=runs/mix --workdir=runs/gain/sentiment_from_scratch --seeds=3 \
      --set training.from_scratch=true
    python benchmarks/tuning_difference.py --first=runs/gain/sentiment \
      --second=runs/gain/sentiment_from_scratch

A small model asks for a higher rate than the published ones, and so does one from scratch.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from bert_jax.config import load_experiment
from bert_jax.tasks.config import FineTuningConfig

EPOCHS = {"movie_sentiment": 3, "brown_tags": 1}


def get_config(
    variant: Literal["movie_sentiment", "brown_tags"] = "movie_sentiment",
) -> FineTuningConfig:
    """Returns the fine-tuning of one set."""
    config = load_experiment(Path(__file__).parent / f"{variant}.py")
    return replace(
        config,
        training=replace(config.training, epochs=EPOCHS[variant], dropout=0.1),
        optimizer=replace(config.optimizer, learning_rate=5e-4),
    )
