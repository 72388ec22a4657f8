r"""The gain from pretraining: compares the model of experiments/mix.py with random weights.

    python benchmarks/task_sets.py --output=data/tasks
    python -m bert_jax.finetune --experiment=experiments/finetune/gain.py:brown_tags \
      --checkpoint=runs/mix --workdir=runs/gain/tags --seeds=3
    for fold in 0 1 2 3 4 5 6 7 8 9; do
      python -m bert_jax.finetune --checkpoint=runs/mix --workdir=runs/gain/editorials/$fold \
        --experiment=experiments/finetune/gain.py:editorial_sentiment_$fold --seeds=2
    done

Run the loop for movie_sentiment_$fold too. Then run all commands again with
--set training.from_scratch=true and other workdirs. This command compares the pretrained runs with
the runs from scratch:

    python benchmarks/paired_difference.py --first=runs/gain/editorials \
      --second=runs/gain/editorials_from_scratch

A test set with a tenth of the sentences is too small to show the difference. There are therefore
ten folds, and each sentence is in the test set of one fold. The learning rates are higher than the
published rates, because a small model and a model with random weights need higher rates.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from bert_jax.config import load_experiment
from bert_jax.tasks.config import FineTuningConfig

Fold = Literal[
    "movie_sentiment_0",
    "movie_sentiment_1",
    "movie_sentiment_2",
    "movie_sentiment_3",
    "movie_sentiment_4",
    "movie_sentiment_5",
    "movie_sentiment_6",
    "movie_sentiment_7",
    "movie_sentiment_8",
    "movie_sentiment_9",
    "editorial_sentiment_0",
    "editorial_sentiment_1",
    "editorial_sentiment_2",
    "editorial_sentiment_3",
    "editorial_sentiment_4",
    "editorial_sentiment_5",
    "editorial_sentiment_6",
    "editorial_sentiment_7",
    "editorial_sentiment_8",
    "editorial_sentiment_9",
]
RATES = {"brown_tags": 5e-4, "movie_sentiment": 5e-4, "editorial_sentiment": 1e-3}
"""Learning rates. The rate of the editorials was chosen on dev of three folds (docs/results.md)."""


def get_config(variant: Literal[Fold, "brown_tags"] = "brown_tags") -> FineTuningConfig:
    """Returns the fine-tuning on parts of speech, or on a fold of a sentiment set."""
    name, fold = variant, ""
    if variant != "brown_tags":
        name, _, fold = variant.rpartition("_")
    config = load_experiment(Path(__file__).parent / f"{name}.py")
    task = config.task
    if fold:
        files = {
            split: f"tsv:data/tasks/{name}_folds/{fold}/{split}.tsv"
            for split in ("train", "dev", "test")
        }
        task = replace(task, **files)
    return replace(
        config,
        task=task,
        training=replace(
            config.training, epochs=3 if fold else 1, dropout=0.1, group_by_length=True
        ),
        optimizer=replace(config.optimizer, learning_rate=RATES[name]),
    )
