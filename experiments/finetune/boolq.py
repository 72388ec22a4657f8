r"""BoolQ: 11,265 pairs of a yes/no question and a passage that answers it.

    python benchmarks/task_sets.py --output=data/tasks --only=boolq
    python -m bert_jax.finetune --experiment=experiments/finetune/boolq.py \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/boolq --seeds=1

The test set is the published dev set, in which 62.2 % of the answers are yes. The dev set is a
tenth of the published training set. 1,432 of the 12,697 published pairs are left out, because they
are training pairs whose passage is also in the test set.

Result of one seed (docs/results.md): the accuracy on test is 0.666, with the 95 % interval 0.648 to
0.682. Always predicting the majority label has an accuracy of 0.622. The seed took 1,342 s on two
busy cores of an AMD EPYC server.
"""

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    return FineTuningConfig(
        task=TaskConfig(
            family="classification",
            train="jsonl:data/tasks/boolq/train.jsonl",
            dev="jsonl:data/tasks/boolq/dev.jsonl",
            test="jsonl:data/tasks/boolq/test.jsonl",
            text="question",
            text_pair="passage",
            labels=("false", "true"),
            max_length=128,
            representation="mean",
        ),
        training=TaskTrainingConfig(epochs=2, batch_size=32, evaluations_per_epoch=2),
        optimizer=OptimizerConfig(
            learning_rate=5e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
