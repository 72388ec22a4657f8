r"""BERT-base for a language: its Wikipedia and web text, for 64 TPU chips or 8 GPUs.

    python -m bert_jax.prepare --experiment=experiments/language.py --workers=64
    python -m bert_jax.pretrain --experiment=experiments/language.py --workdir=runs/de

The language is German. For another language, `python -m bert_jax.new` writes such a file.
docs/data.md says for which languages the ends of sentences were measured. docs/pretraining.md shows
all commands, from the download to the model. We have not trained this model.

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
    """Returns the experiment."""
    return Experiment(
        data=DataConfig(
            # The text, and the directory for the vocabulary and the rows that `prepare` makes. An
            # article of Wikipedia is used twice as often as a page of the web.
            corpus="parquet:corpora/wikipedia/**/*.parquet@2,parquet:corpora/web/**/*.parquet",
            directory="data/de",
            # The rules of this language say where a sentence ends.
            language="de",
            # Capitals and accents distinguish words.
            lower_case=False,
            strip_accents=False,
            # An update reads this many rows of 128 tokens.
            batch_size=4_096,
            sequence_length=128,
            # Each document is cut into rows this many times, each time differently.
            dupe_factor=1,
            # This share of the documents measures the model, which is not trained on them.
            held_out_fraction=0.001,
            # The rows are in this many files.
            train_shards=1024,
        ),
        model=BertConfig(
            vocab_size=32_768,
            num_layers=12,
            hidden_size=768,
            num_heads=12,
            # A text has at most this many tokens.
            max_positions=512,
            # bfloat16 is fast on TPUs and GPUs, and float32 on CPUs.
            dtype="bfloat16",
        ),
        optimizer=OptimizerConfig(
            learning_rate=0.0004,
            # The learning rate rises during these updates, and then falls to 0.
            warmup_steps=10_000,
        ),
        training=TrainingConfig(
            steps=250_000,
            # The rows of an update are processed in this many parts, to save memory.
            microbatches=1,
            log_every=100,
            eval_every=5_000,
            checkpoint_every=1_000,
        ),
        evaluation=EvaluationConfig(batch_size=1024, max_examples=32_768),
        # The last tenth of the updates has rows of 512 tokens.
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
