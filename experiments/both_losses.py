"""A small BERT on the State of the Union addresses that learns both objectives, on two CPU cores.

    python -m bert_jax.prepare --experiment=experiments/both_losses.py
    python -m bert_jax.pretrain --experiment=experiments/both_losses.py --workdir=runs/both_losses

The quick start learns only the masked language model. Three differences let this experiment learn
the next-sentence prediction too:

- Rows of 128 tokens hold several sentences, so about half of the held-out pairs are random. In rows
  of 32 tokens 85 % of these pairs are random.
- The encoder has two layers. The first finds words that both texts share, and the second can
  collect this in [CLS].
- A first phase with rows of 16 tokens trains the attention to neighbouring words at a low cost.
  On long rows alone, the masked loss stays near the unigram loss for much longer.

docs/quickstart-trials.md has the trials behind these choices.
"""

from bert_jax import Experiment
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, PhaseConfig, TrainingConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> Experiment:
    """Returns the experiment: 1,500 updates with short rows, then 3,500 with long rows."""
    masking = MaskingConfig(max_predictions=2)  # round(16 * 0.15)
    return Experiment(
        data=DataConfig(
            corpus="embedded:sotu",
            directory="data/both_losses",
            batch_size=64,
            sequence_length=16,
            dupe_factor=6,
            # A short pair is often cut from a single sentence, and then B is always random.
            short_sequence_probability=0.0,
            train_shards=4,
            masking=masking,
            evaluation_masking=masking,
        ),
        model=BertConfig(
            vocab_size=4096,
            hidden_size=128,
            num_layers=2,
            num_heads=4,
            # Less than one pass over the data: there is nothing to regularize.
            dropout=0.0,
            attention_dropout=0.0,
            # At a width of 128 the published 0.02 starts with nearly uniform attention.
            initializer_stddev=0.08,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1.2e-3, warmup_steps=100, bias_correction=True, decay_from="warmup_end"
        ),
        training=TrainingConfig(steps=5000, log_every=50, eval_every=500, checkpoint_every=500),
        phases=(
            PhaseConfig(
                steps=3500,
                changes={
                    "data.sequence_length": 128,
                    "data.batch_size": 32,
                    "data.masking.max_predictions": 19,
                    "data.evaluation_masking.max_predictions": 19,
                },
            ),
        ),
        evaluation=EvaluationConfig(batch_size=64),
    )
