r"""Ablation of the pair task: next sentence, sentence order, or none.

Question: does a task about pairs of texts improve what the encoder knows about single texts?

    python benchmarks/task_sets.py --output=data/tasks --only=movie_sentiment \
      --only=movie_sentiment_folds
    for task in next_sentence sentence_order none; do
      python -m bert_jax.prepare --experiment=experiments/ablations/pair_task.py:$task
    done
    python -m bert_jax.sweep --experiment=experiments/ablations/pair_task.py --workdir=DIR

Cost: 9 runs of about 2.4e13 FLOPs each, with a fine-tuning and a probe after each. A run has 1,500
updates with short rows and 1,500 with long rows. The second phase of both_losses.py is longer.

The points have different held-out rows, so their losses cannot be compared, and the table says so.
They are compared by the sentiment of single sentences: by the accuracy of a fine-tuning, and by
that of a linear probe on the frozen encoder.

Result of these runs (docs/results.md): three seeds cannot tell. Both pair tasks are learned
little: their accuracy is at most 0.61, and the majority has 0.51.

Published: without next-sentence prediction, RoBERTa's base model is as good or slightly better on
the tasks of table 2 of Liu et al. 2019. Sentence order is better than next sentence and than no
pair task on the mean of the tasks in table 5 of Lan et al. 2019.

References:
  https://arxiv.org/abs/1907.11692
  https://arxiv.org/abs/1909.11942
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from bert_jax import Experiment
from bert_jax.config import load_experiment, override


def get_config(
    variant: Literal["next_sentence", "sentence_order", "none"] = "next_sentence",
) -> Experiment:
    """Returns the experiment of both_losses.py, made shorter, with one of the pair tasks."""
    base = load_experiment(Path(__file__).parents[1] / "both_losses.py")
    steps = {"training.steps": 3000, "phases.0.steps": 1500}
    return override(base, steps | changes(variant))


def changes(task: str) -> dict:
    """Returns the fields of a pair task. Each task has its own prepared data."""
    return {
        "data.pairs": task,
        "data.directory": f"data/pair_task-{task}",
        "objective.next_sentence": task != "none",
    }


def sweep_task() -> Iterator[dict]:
    """Yields the three tasks."""
    for task in ("next_sentence", "sentence_order", "none"):
        yield changes(task)


def evaluations() -> dict[str, str]:
    """Returns a fine-tuning on single sentences, and a probe."""
    tasks = Path(__file__).parents[1] / "finetune"
    return {
        "movies": f"{tasks / 'gain.py'}:movie_sentiment_0",
        "movies_probe": f"probe:{tasks / 'movie_sentiment.py'}",
    }


def sweep_seed() -> Iterator[dict]:
    """Yields three seeds."""
    for seed in range(3):
        yield {"seed": seed}
