r"""Sentiment of 4,946 sentences from editorials; the label is the mean of twenty ratings.

    python benchmarks/task_sets.py --output=data/tasks --only=editorial_sentiment
    python -m bert_jax.finetune --experiment=experiments/finetune/editorial_sentiment.py \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/editorial_sentiment --seeds=3

Ratings are between -4 and 4. Half of the means are between -0.65 and 0.65, where the sign says
little. The task is therefore a regression, measured by Spearman's correlation. 244 sentences with a
mean of 0 are left out, because movie_sentiment.py leaves them out too.
"""

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    return FineTuningConfig(
        task=TaskConfig(
            family="regression",
            train="tsv:data/tasks/editorial_sentiment/train.tsv",
            dev="tsv:data/tasks/editorial_sentiment/dev.tsv",
            test="tsv:data/tasks/editorial_sentiment/test.tsv",
            text="text",
            label="rating",
            metric="spearman",
            max_length=64,
            representation="mean",
        ),
        training=TaskTrainingConfig(epochs=3, batch_size=32, evaluations_per_epoch=2),
        optimizer=OptimizerConfig(
            learning_rate=5e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
