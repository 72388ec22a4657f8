r"""BoolQ: is the answer that a passage gives to a question yes? 11,265 pairs.

    python benchmarks/task_sets.py --output=data/tasks --only=boolq
    python -m bert_jax.finetune --experiment=experiments/finetune/boolq.py \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/boolq --seeds=1

test is the published dev set, of which 62.2 % are yes; dev is a tenth of the training set. Of the
12,697 published pairs 1,432 are left out: of the training set, on a passage of test. Accuracy on
test 0.666, interval 0.648 to 0.682, of one seed (docs/results.md); the majority has 0.622. It took
1,342 s of two busy cores of an AMD EPYC server.
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
