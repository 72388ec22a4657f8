r"""Sentiment of 10,568 sentences from film reviews; the label is the sign of the mean rating.

    python benchmarks/task_sets.py --output=data/tasks --only=movie_sentiment
    python -m bert_jax.finetune --experiment=experiments/finetune/movie_sentiment.py \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/movie_sentiment --seeds=3

The representation is the mean over positions, because all-MiniLM-L6-v2 was trained with it.

Result of 3 seeds (docs/results.md): the accuracy on test is 0.830 with a standard deviation of
0.0015 and the 95 % interval 0.808 to 0.854. Always predicting the majority label has 0.476. A seed
took 282 to 889 s on two busy cores of an AMD EPYC server.
"""

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    return FineTuningConfig(
        task=TaskConfig(
            family="classification",
            train="tsv:data/tasks/movie_sentiment/train.tsv",
            dev="tsv:data/tasks/movie_sentiment/dev.tsv",
            test="tsv:data/tasks/movie_sentiment/test.tsv",
            text="text",
            label="label",
            labels=("negative", "positive"),
            max_length=40,
            representation="mean",
        ),
        training=TaskTrainingConfig(epochs=1, batch_size=32, evaluations_per_epoch=2),
        optimizer=OptimizerConfig(
            learning_rate=5e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
