r"""DisflQA: 1,000 disfluent questions on SQuAD 2 passages; a quarter of them have no answer.

    python benchmarks/task_sets.py --output=data/tasks --only=disfl_qa --only=narrative_qa
    python -m bert_jax.finetune --experiment=experiments/finetune/narrative_qa.py \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/narrative_qa
    python -m bert_jax.finetune --experiment=experiments/finetune/disfl_qa.py \
      --checkpoint=runs/narrative_qa/seed-0 --workdir=runs/disfl_qa --seeds=3

Only 585 training questions have an answer, so the model is first trained on the task of
narrative_qa.py. The metric is answerable_f1: the F1 of the questions that have an answer. With this
metric, the model answers every question.

Result of 3 seeds (docs/results.md): answerable_f1 on test is 0.372 with a standard deviation of
0.019 and the 95 % interval 0.287 to 0.456. Predicting the sentence that shares most words with the
question has 0.198. A seed took 693 to 991 s on one core of an AMD EPYC server.
"""

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    return FineTuningConfig(
        task=TaskConfig(
            family="question_answering",
            train="squad:data/tasks/disfl_qa/train.json",
            dev="squad:data/tasks/disfl_qa/dev.json",
            test="squad:data/tasks/disfl_qa/test.json",
            text="question",
            text_pair="context",
            label="answers",
            metric="answerable_f1",
            max_length=384,
            max_question_length=48,
            representation="last",
            no_answer=True,
        ),
        training=TaskTrainingConfig(
            epochs=4, batch_size=8, evaluation_batch_size=16, group_by_length=True
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
