r"""Sentiment of sentences from editorials: 4,946 with the sign of their raters' mean.

    python benchmarks/task_sets.py --output=data/tasks --only=editorial_sentiment
    python -m bert_jax.finetune --experiment=experiments/finetune/editorial_sentiment.py \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/editorial_sentiment --seeds=3

As movie_sentiment.py, with as many updates; half of the means are within 0.65 of neither
(the scale ends at 4).
"""

from dataclasses import replace
from pathlib import Path

from bert_jax.config import load_experiment
from bert_jax.tasks.config import FineTuningConfig


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    config = load_experiment(Path(__file__).with_name("movie_sentiment.py"))
    files = {
        part: f"tsv:data/tasks/editorial_sentiment/{part}.tsv" for part in ("train", "dev", "test")
    }
    return replace(
        config,
        task=replace(config.task, max_length=64, **files),
        training=replace(config.training, epochs=2),
    )
