r"""SQuAD 1.1 and 2.0 as google-research/bert fine-tuned BERT-base (README, "SQuAD").

    python -m bert_jax.finetune --experiment=experiments/finetune/squad.py:v1 \
      --checkpoint=bert-base-uncased --workdir=runs/squad \
      --set task.train=squad:train-v1.1.json --set task.dev=squad:dev-v1.1.json

Batches of 12 at a rate of 3e-5, 2 epochs (run_squad.py has 3 as its default), windows of 384
tokens with a stride of 128. BERT-base had on dev 1.1 an F1 of 88.5 and an exact match of 80.8
(table 2 of Devlin et al. 2018); of the released checkpoint the README reports 88.41 and 81.25.
"""

from typing import Literal

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TuningConfig
from bert_jax.training.optim import OptimizerConfig


def get_config(variant: Literal["v1", "v2"] = "v1") -> FineTuningConfig:
    """Returns the fine-tuning on questions that all have an answer, or not (`v2`)."""
    version = {"v1": "v1.1", "v2": "v2.0"}[variant]
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
        training=TuningConfig(epochs=2, batch_size=12, evaluation_batch_size=8),
        optimizer=OptimizerConfig(
            learning_rate=3e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
