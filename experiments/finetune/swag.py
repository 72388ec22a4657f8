r"""SWAG: choose the correct one of four endings of a text.

    python -m bert_jax.finetune --experiment=experiments/finetune/swag.py \
      --checkpoint=bert-base-uncased --workdir=runs/swag \
      --set task.train=csv:train.csv --set task.dev=csv:val.csv

As in Devlin et al. 2018 (section 4.4), training takes 3 epochs with batches of 16 and a learning
rate of 2e-5. The paper does not publish the length of the rows. Its BERT-base has an accuracy of
81.6 on dev (table 4).

Reference: https://arxiv.org/abs/1810.04805
"""

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    return FineTuningConfig(
        task=TaskConfig(
            family="multiple_choice",
            train="csv:data/swag/train.csv",
            dev="csv:data/swag/val.csv",
            text="sent1",
            text_pair="ending0,ending1,ending2,ending3",
            choice_start="sent2",
            max_length=80,
            representation="pooled",
        ),
        training=TaskTrainingConfig(epochs=3, batch_size=16),
        optimizer=OptimizerConfig(
            learning_rate=2e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
