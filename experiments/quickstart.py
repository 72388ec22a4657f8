"""A small BERT on the embedded State of the Union addresses, for two CPU cores.

    bash launch/quickstart.sh

One layer of width 256 on short rows: of the shapes tried it learns most in three minutes. Two
layers cost 1.6 times as much an update and are no further after as many tokens.
"""

from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.experiment import Experiment
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, TrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    masking = MaskingConfig(max_predictions=10)  # round(64 * 0.15)
    return Experiment(
        data=DataConfig(
            corpus="embedded:sotu",
            directory="data/quickstart",
            batch_size=16,
            sequence_length=64,
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
            # At a width of 256 the published 0.02 starts with all but uniform attention.
            initializer_stddev=0.05,
        ),
        # Without bias correction Adam's first steps are long: a rate of 1e-3 needs a warm-up of
        # some hundred steps, or the model stays at the word counts.
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=500),
        training=TrainingConfig(steps=2800, log_every=50, eval_every=700, checkpoint_every=700),
        evaluation=EvaluationConfig(batch_size=64),
    )
