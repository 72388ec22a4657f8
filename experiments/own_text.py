"""A small BERT on your own text: copy this file and change it.

Put UTF-8 text files under corpora/mine, with a blank line between documents. Then run

    python -m bert_jax.prepare --experiment=experiments/own_text.py
    python -m bert_jax.pretrain --experiment=experiments/own_text.py --workdir=runs/mine

docs/data.md lists other kinds of corpora. `pretrain --dry_run` prints the FLOPs of the run.
"""

from bert_jax import Experiment
from bert_jax.data.config import DataConfig
from bert_jax.models.config import BertConfig
from bert_jax.training.config import TrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> Experiment:
    """Returns a BERT-mini on rows of 128 tokens."""
    return Experiment(
        data=DataConfig(
            corpus="text:corpora/mine/*.txt",
            directory="data/mine",
            # The language decides where sentences end. Outside English, accents distinguish words:
            # strip_accents=False keeps them.
            language="en",
            strip_accents=None,
            batch_size=128,
            sequence_length=128,
            dupe_factor=5,
            # A small corpus needs a larger share of held-out documents than a large corpus.
            held_out_fraction=0.05,
        ),
        model=BertConfig(vocab_size=8192, hidden_size=256, num_layers=4, num_heads=4),
        optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=1000),
        training=TrainingConfig(steps=50_000, log_every=100, eval_every=5000),
    )
