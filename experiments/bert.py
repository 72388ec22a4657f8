"""BERT as published (Devlin et al. 2018), and the smaller sizes of Turc et al. 2019.

The corpus is English Wikipedia and books as plain UTF-8 text. It is not part of this repository.
Put the text files under corpora/wikibooks/, with a sentence or a paragraph on each line and a blank
line between documents. Then run

    python -m bert_jax.prepare --experiment=experiments/bert.py:base
    python -m bert_jax.pretrain --experiment=experiments/bert.py:base --workdir=runs/base

As published, the last tenth of the updates uses rows of 512 tokens, and one schedule spans all
updates. `pretrain --dry_run` prints the FLOPs. `prepare` writes the long rows to
data/wikibooks-512. With `--set 'phases=[]'` all updates use rows of 128 tokens, and the embeddings
of later positions are not trained.

References:
  https://arxiv.org/abs/1810.04805, https://arxiv.org/abs/1908.08962
"""

from typing import Literal

from bert_jax import Experiment
from bert_jax.data.config import DataConfig
from bert_jax.models.config import BertConfig
from bert_jax.training.config import PhaseConfig, TrainingConfig
from bert_jax.training.optim import OptimizerConfig

SIZES = {  # layers, hidden size, attention heads
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}


def get_config(
    variant: Literal["tiny", "mini", "small", "medium", "base", "large"] = "base",
) -> Experiment:
    """Returns BERT in one size.

    Training makes a million updates with AdamW at a learning rate of 1e-4. A batch has 256 rows. A
    row has 128 tokens, and in the last tenth of the updates 512 tokens.
    """
    num_layers, hidden_size, num_heads = SIZES[variant]
    return Experiment(
        data=DataConfig(
            corpus="text:corpora/wikibooks/**/*.txt",
            directory="data/wikibooks",
            batch_size=256,
            sequence_length=128,
            train_shards=256,
        ),
        model=BertConfig(
            num_layers=num_layers,
            hidden_size=hidden_size,
            num_heads=num_heads,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000),
        training=TrainingConfig(
            steps=1_000_000, log_every=100, eval_every=10_000, checkpoint_every=5_000
        ),
        phases=(
            PhaseConfig(
                steps=100_000,
                changes={
                    "data.sequence_length": 512,
                    "data.masking.max_predictions": 77,
                    "data.evaluation_masking.max_predictions": 77,
                },
            ),
        ),
    )
