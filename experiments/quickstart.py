"""A small BERT on the embedded State of the Union addresses, for two CPU cores.

bash launch/quickstart.sh
"""

from bert_jax.data.config import DataConfig
from bert_jax.experiment import Experiment
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, TrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> Experiment:
    """Returns the quick start's experiment."""
    return Experiment(
        data=DataConfig(
            corpus="embedded:sotu",
            directory="data/quickstart",
            batch_size=32,
            sequence_length=64,
            dupe_factor=2,
            train_shards=4,
        ),
        model=BertConfig(vocab_size=4096, hidden_size=256, num_layers=2, num_heads=4),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=100),
        training=TrainingConfig(steps=1200, log_every=20, eval_every=400, checkpoint_every=400),
        evaluation=EvaluationConfig(batch_size=64),
    )
