r"""NarrativeQA: 1,823 questions about plots of books and films; the plot contains the answer.

    python benchmarks/task_sets.py --output=data/tasks --only=narrative_qa
    python -m bert_jax.finetune --experiment=experiments/finetune/narrative_qa.py \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/narrative_qa

A passage is the part of a plot that contains the answer. The first mention of the answer in the
passage is taken as the gold span, which is not always correct. disfl_qa.py starts from the weights
of this experiment.

Result of one seed (docs/results.md): the F1 on test is 0.503, with the 95 % interval 0.423 to
0.584. The bootstrap resamples questions, but not the 6 plots of the test set. Predicting the
sentence that shares most words with the question has 0.129. The seed took 1,266 s on one core of an
AMD EPYC server.
"""

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    return FineTuningConfig(
        task=TaskConfig(
            family="question_answering",
            train="squad:data/tasks/narrative_qa/train.json",
            dev="squad:data/tasks/narrative_qa/dev.json",
            test="squad:data/tasks/narrative_qa/test.json",
            text="question",
            text_pair="context",
            label="answers",
            max_length=384,
            max_question_length=48,
            representation="last",
        ),
        training=TaskTrainingConfig(
            epochs=4, batch_size=8, evaluation_batch_size=16, group_by_length=True
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
