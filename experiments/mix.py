r"""A small BERT on the mix of benchmarks/corpus_mix.py, for two CPU cores.

    python benchmarks/corpus_mix.py --output=corpora/mix
    python benchmarks/task_sets.py --output=data/tasks
    python -m bert_jax.prepare --experiment=experiments/mix.py \
        --exclude=data/tasks/evaluation_texts.txt
    python -m bert_jax.pretrain --experiment=experiments/mix.py --workdir=runs/mix

The model has two layers of width 256. Rows have 64 tokens, which is enough for most sentences. The
model is smaller than BERT-mini. On two cores, training takes 5,870 s and reads each of the 322,966
rows 1.8 times. Each text is in two rows. Half of the mix is documentation of a single kind, so the
weight of the documentation is lowered to 0.34.
"""

from bert_jax import Experiment
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, TrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> Experiment:
    """Returns the experiment."""
    masking = MaskingConfig(max_predictions=10)  # round(64 * 0.15)
    return Experiment(
        data=DataConfig(
            corpus="text:corpora/mix/[!d]*.txt,text:corpora/mix/documentation.txt@0.34",
            directory="data/mix",
            batch_size=64,
            sequence_length=64,
            dupe_factor=2,
            train_shards=8,
            masking=masking,
            evaluation_masking=masking,
        ),
        model=BertConfig(
            vocab_size=8192,
            hidden_size=256,
            num_layers=2,
            num_heads=4,
            max_positions=128,
            dropout=0.0,  # less than two passes over the rows
            attention_dropout=0.0,
            initializer_stddev=0.05,  # as in quickstart.py
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=500),
        training=TrainingConfig(steps=9000, log_every=50, eval_every=500, checkpoint_every=500),
        evaluation=EvaluationConfig(batch_size=64, max_examples=2048),
    )
