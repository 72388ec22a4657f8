r"""SQuAD 1.1 and 2.0 as in Devlin et al. 2018.

    python -m bert_jax.finetune --experiment=experiments/finetune/squad.py:v1 \
      --checkpoint=bert-base-uncased --workdir=runs/squad \
      --set task.train=squad:train-v1.1.json --set task.dev=squad:dev-v1.1.json

| value | source |
|---|---|
| 1.1: 3 epochs, rate 5e-5, batches of 32 | section 4.2 |
| 2.0: 2 epochs, rate 5e-5, batches of 48 | section 4.3 |
| windows of 384 tokens, stride 128 | README of google-research/bert |
| warm-up over a tenth of the steps, questions of 64 tokens, answers of 30 | run_squad.py |

Published results on dev:

- 1.1: BERT-base has an F1 of 88.5 and an exact match of 80.8 (table 2).
- 2.0: only BERT-large, with an F1 of 81.9 and an exact match of 78.7 (table 3).

The README of google-research/bert uses other values: batches of 12 for BERT-base on 1.1 and batches
of 24 for BERT-large on 1.1 and 2.0, each with a learning rate of 3e-5 for 2 epochs. Its BERT-base
has an F1 of 88.41 and an exact match of 81.25. These flags set its values:

    --set training.batch_size=12 --set optimizer.learning_rate=3e-5 --set training.epochs=2

References:
  https://arxiv.org/abs/1810.04805
  https://github.com/google-research/bert
"""

from typing import Literal

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config(variant: Literal["v1", "v2"] = "v1") -> FineTuningConfig:
    """Returns the fine-tuning. In `v2` some questions have no answer."""
    version, epochs, batch_size = {"v1": ("v1.1", 3, 32), "v2": ("v2.0", 2, 48)}[variant]
    return FineTuningConfig(
        task=TaskConfig(
            family="question_answering",
            train=f"squad:data/squad/train-{version}.json",
            dev=f"squad:data/squad/dev-{version}.json",
            text="question",
            text_pair="context",
            label="answers",
            max_length=384,
            stride=128,
            representation="last",
            no_answer=variant == "v2",
        ),
        training=TaskTrainingConfig(epochs=epochs, batch_size=batch_size, evaluation_batch_size=8),
        optimizer=OptimizerConfig(
            learning_rate=5e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
