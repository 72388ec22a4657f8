"""A small BERT on the embedded State of the Union addresses, for two CPU cores.

    bash launch/quickstart.sh

The masked language model learns. The next-sentence head learns next to nothing: three runs of seed
0 had held-out pair accuracies of 0.842 to 0.851; the majority label alone gets 0.845. The reason
is the data. A pair is cut from consecutive sentences that fill the row. The sentences of the
held-out addresses have 39 tokens on average, so a single sentence often fills a row of 32 tokens.
There is then no second sentence, so text B is random. About 81 % of the training pairs are random.

In longer rows, the share of random pairs is closer to a half. The masked loss, however, stays near
the unigram loss until attention finds the neighbouring words, and this takes longer in longer rows.
docs/quickstart-trials.md compares other shapes. both_losses.py learns both objectives, in less than
20 minutes.
"""

from bert_jax import Experiment
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, TrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    masking = MaskingConfig(max_predictions=5)  # round(32 * 0.15)
    return Experiment(
        data=DataConfig(
            corpus="embedded:sotu",
            directory="data/quickstart",
            batch_size=32,
            sequence_length=32,
            dupe_factor=2,
            train_shards=4,
            masking=masking,
            evaluation_masking=masking,
        ),
        model=BertConfig(
            vocab_size=4096,
            hidden_size=256,
            num_layers=1,
            num_heads=4,
            # Less than one pass over the data: there is nothing to regularize.
            dropout=0.0,
            attention_dropout=0.0,
            # At a width of 256 the published 0.02 starts with nearly uniform attention.
            initializer_stddev=0.05,
        ),
        # Without bias correction Adam's first steps are three times as long as the rate says.
        optimizer=OptimizerConfig(learning_rate=6e-4, warmup_steps=200),
        training=TrainingConfig(steps=3000, log_every=50, eval_every=750, checkpoint_every=750),
        evaluation=EvaluationConfig(batch_size=64),
    )
