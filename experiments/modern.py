"""The modern encoder in the size of ModernBERT-base, with rows of 1,024 and then 8,192 tokens.

Nobody has run this experiment yet. The corpus is that of bert.py. The encoder is that of Warner et
al. 2024, but tokenizer, data and optimizer are BERT's, so the result is not ModernBERT.

    python -m bert_jax.plan --experiment=experiments/modern.py --topology=v5p:2x2x2 --phases
    python -m bert_jax.prepare --experiment=experiments/modern.py
    python -m bert_jax.pretrain --experiment=experiments/modern.py --workdir=runs/modern

The attention of bert_jax computes all products of a row and masks those outside of the window, so
local attention saves no time. For a row of 8,192 tokens, the probabilities of a layer take 1.5 GiB.
`model.remat` full keeps those of a single layer. For eight v5p chips, `plan` (command above, jax
0.10.2) estimates 4.71 GiB a device with rows of 1,024 tokens and 10.03 GiB with rows of 8,192, and
16 hours in all. Long rows are slow (MFU 0.08), because these probabilities pass through the memory.

References:
  https://arxiv.org/abs/2412.13663
"""

from bert_jax import Experiment
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.models.config import ModernConfig
from bert_jax.training.config import EvaluationConfig, PhaseConfig, TrainingConfig
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.optim import OptimizerConfig


def get_config() -> Experiment:
    """Returns the experiment: 90,000 updates with short rows, then 10,000 with long rows."""
    masking = MaskingConfig(rate=0.3, max_predictions=307)  # round(1024 * 0.3)
    return Experiment(
        data=DataConfig(
            corpus="text:corpora/wikibooks/**/*.txt",
            directory="data/wikibooks-modern",
            batch_size=512,
            sequence_length=1024,
            pairs="none",
            pairs_per_row=8,
            train_shards=256,
            masking=masking,
            evaluation_masking=masking,
        ),
        model=ModernConfig(vocab_size=30522, dtype="bfloat16", remat="full"),
        objective=ObjectiveConfig(next_sentence=False),
        optimizer=OptimizerConfig(
            learning_rate=8e-4, warmup_steps=3000, beta2=0.98, bias_correction=True
        ),
        training=TrainingConfig(
            steps=100_000, microbatches=4, log_every=100, eval_every=5000, checkpoint_every=5000
        ),
        phases=(
            PhaseConfig(
                steps=10_000,
                changes={
                    "data.sequence_length": 8192,
                    "data.batch_size": 64,
                    "data.masking.max_predictions": 2458,
                    "data.evaluation_masking.max_predictions": 2458,
                    "training.microbatches": 8,
                },
            ),
        ),
        evaluation=EvaluationConfig(batch_size=64, max_examples=4096),
    )
