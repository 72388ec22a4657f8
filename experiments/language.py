r"""BERT-base for a language: its Wikipedia and web text, for 64 TPU chips or 8 GPUs.

    python -m bert_jax.prepare --experiment=experiments/language.py --workers=64
    python -m bert_jax.pretrain --experiment=experiments/language.py --workdir=runs/de

The language is German. For another language, change the corpus, `data.directory` and
`data.language`. docs/data.md says for which languages the ends of sentences were measured.
docs/pretraining.md shows all commands, from the download to the model. We have not trained this
model.

An update has 524,288 tokens, 16 times as many as in bert.py, because 64 chips would have only 4
rows each of a batch of 256. The learning rate is 4 times as high, by the square-root rule of You et
al. 2020 (https://arxiv.org/abs/1904.00962). The last tenth of the updates has rows of 512 tokens.
"""

from bert_jax import Experiment
from bert_jax.data.config import DataConfig
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, PhaseConfig, TrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> Experiment:
    """Returns BERT-base in bfloat16 on 250,000 updates of 524,288 tokens."""
    return Experiment(
        data=DataConfig(
            # An article of Wikipedia is used twice as often as a page of the web.
            corpus="parquet:corpora/wikipedia/**/*.parquet@2,parquet:corpora/web/**/*.parquet",
            directory="data/de",
            language="de",
            lower_case=False,
            batch_size=4096,
            sequence_length=128,
            dupe_factor=1,  # the web is large
            held_out_fraction=0.001,
            train_shards=1024,
        ),
        model=BertConfig(vocab_size=32_768, dtype="bfloat16"),
        optimizer=OptimizerConfig(learning_rate=4e-4, warmup_steps=10_000),
        training=TrainingConfig(
            steps=250_000, log_every=100, eval_every=5_000, checkpoint_every=1_000
        ),
        evaluation=EvaluationConfig(batch_size=1024, max_examples=32_768),
        phases=(
            PhaseConfig(
                steps=25_000,
                changes={
                    "data.sequence_length": 512,
                    "data.batch_size": 1024,
                    "data.masking.max_predictions": 77,
                    "data.evaluation_masking.max_predictions": 77,
                },
            ),
        ),
    )
