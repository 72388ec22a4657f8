"""BERT as six code bases train it; docs/recipe.md shows how they differ.

    python -m bert_jax.config --diff experiments/presets.py:devlin2018 experiments/presets.py:mlperf
    python -m bert_jax.pretrain --experiment=experiments/presets.py:hf_bert --workdir=runs/hf_bert

A preset has the behaviour of the source's code and the published settings of its main run. The
corpus is English Wikipedia and books, as in bert.py. It is prepared once for each sequence length
and each limit of the length of words.

No preset follows these points:

- A mean of the means of replicas or micro-batches. Every loss here is divided by the masked words
  of the global batch.
- Clipping on each replica before the gradients are summed (google_bert_tf1 on TPUs, MLPerf's
  reference). The update would depend on the number of replicas.
- The 1e-5 that Google's code adds to the number of masked words, at most 1e-5 of the loss.
- fp16 with loss scaling (nvidia_lamb). The preset uses bfloat16.

The docstring of a preset names what only its source does. All presets have the same evaluation
masks, 80/10/10 and rounded, so their runs are comparable. All but hf_bert have static masks:
`dupe_factor` masks for each text.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from bert_jax import Experiment
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.models.config import BertConfig
from bert_jax.training.config import EvaluationConfig, PhaseConfig, TrainingConfig
from bert_jax.training.losses import ObjectiveConfig
from bert_jax.training.optim import OptimizerConfig


def devlin2018() -> Experiment:
    """The paper and the checkpoints released with it: BERT-base, 256 rows, a million updates.

    GELU is the exact erf form; the released checkpoints were trained with it. The last tenth of the
    updates uses rows of 512 tokens, under the same schedule.

    References:
      https://arxiv.org/abs/1810.04805
      https://github.com/google-research/bert before its commit bee6030
    """
    return Experiment(
        data=_data(sequence_length=128, batch_size=256),
        model=BertConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10_000),
        training=_training(1_000_000),
        phases=(_long_rows(100_000),),
    )


def google_bert_tf1() -> Experiment:
    """google-research/bert today, with the defaults of its run_pretraining.py.

    GELU is now the tanh form. The defaults, 32 rows and 100,000 updates, are for first trials.
    Two points are not followed: clipping on each replica, on TPUs; evaluation of only 100 batches.
    Here all held-out rows are evaluated.

    References:
      https://github.com/google-research/bert
    """
    return Experiment(
        data=_data(sequence_length=128, batch_size=32),
        model=BertConfig(activation="gelu_tanh"),
        optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=10_000),
        training=_training(100_000),
        evaluation=EvaluationConfig(batch_size=32),
    )


def hf_bert() -> Experiment:
    """Hugging Face's BertForPreTraining under its Trainer: torch's AdamW, masks drawn word by word.

    Learning rate, warm-up and batch are the paper's; the Trainer's defaults are for fine-tuning.
    The Trainer has no limit of the predictions of a row. Here a row has room for 40 predictions, at
    512 tokens for 120; fewer than one row in a million needs more.
    One point is not followed: there the embedding of [PAD] starts at 0. No loss depends on it.

    References:
      https://github.com/huggingface/transformers, modeling_bert.py, trainer.py, data_collator.py
    """
    paper = devlin2018()
    return replace(
        paper,
        data=replace(
            _data(sequence_length=128, batch_size=256, max_word_length=100),
            masking=MaskingConfig(count="drawn", max_predictions=40),
        ),
        model=replace(paper.model, initializer="normal"),
        optimizer=replace(
            paper.optimizer, bias_correction=True, epsilon=1e-8, decay_from="warmup_end"
        ),
        phases=(_long_rows(100_000, max_predictions=120, max_word_length=100),),
    )


def nvidia_lamb() -> Experiment:
    """NVIDIA's BERT-large with LAMB: 7,038 updates on 65,536 rows, 1,563 on 32,768 of 512 tokens.

    Each phase has its own schedule. The second phase keeps the moments and counts from 0. The
    optimizer is FusedLAMB without NVLAMB: parameters without weight decay have no trust ratio. The
    rate falls with the square root of the share of steps that remain. GELU is the erf form, as in
    its PyTorch code. Two points are not followed: fp16; a vocabulary padded to 30,528 entries, all
    of which take part in the softmax.

    References:
      https://github.com/NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/BERT
      You et al. 2020, https://arxiv.org/abs/1904.00962
    """
    return Experiment(
        data=_data(sequence_length=128, batch_size=65_536),
        model=_large(initializer="normal"),
        optimizer=OptimizerConfig(
            name="lamb",
            learning_rate=6e-3,
            warmup_steps=2_001,  # 28.43 %
            first_step=1,
            power=0.5,
            bias_correction=True,
        ),
        training=_training(7_038 + 1_563, microbatches=32),
        phases=(
            _long_rows(
                1_563,
                max_predictions=80,
                own_schedule=True,
                moments="recounted",
                changes={
                    "data.batch_size": 32_768,
                    "training.microbatches": 64,
                    "optimizer.learning_rate": 4e-3,
                    "optimizer.warmup_steps": 200,  # 12.8 %
                },
            ),
        ),
    )


def mlperf() -> Experiment:
    """MLPerf Training's BERT-large at 512 tokens on TPUs: 8,192 rows, 600 updates of LAMB.

    The benchmark starts from its own phase-one checkpoint (`training.init_from`) and ends at a
    masked-LM accuracy of 0.72 on 10,000 examples. One point is not followed: clipping on each
    replica.

    References:
      https://github.com/mlcommons/training, retired_benchmarks/bert
    """
    return Experiment(
        data=_data(sequence_length=512, batch_size=8_192),
        model=_large(activation="gelu_tanh"),
        optimizer=OptimizerConfig(
            name="lamb",
            learning_rate=0.00288293,
            warmup_start=-76,
            warmup_steps=287,
            beta1=0.88,
            beta2=0.88,
            weight_decay=0.0166629,
            bias_correction=True,
        ),
        training=_training(600, microbatches=8),
        evaluation=EvaluationConfig(max_examples=10_000),
    )


def textbook() -> Experiment:
    """BERT as it is taught.

    Masked words always become [MASK]. The loss is the sum over a pair's masked words plus its pair
    loss. A single text has no final [SEP].
    """
    paper = devlin2018()
    masking = replace(paper.data.masking, split=(1.0, 0.0, 0.0))
    return replace(
        paper,
        data=replace(paper.data, masking=masking, single_text_separator=False),
        objective=ObjectiveConfig(mlm_reduction="sum"),
    )


PRESETS = (devlin2018, google_bert_tf1, hf_bert, nvidia_lamb, mlperf, textbook)


def get_config(
    variant: Literal[
        "devlin2018", "google_bert_tf1", "hf_bert", "nvidia_lamb", "mlperf", "textbook"
    ] = "devlin2018",
) -> Experiment:
    """Returns a preset; its docstring names the source and the points that it does not follow."""
    return {preset.__name__: preset for preset in PRESETS}[variant]()


def _data(*, sequence_length: int, batch_size: int, max_word_length: int = 200) -> DataConfig:
    masking = MaskingConfig(max_predictions={128: 20, 512: 76}[sequence_length])
    return DataConfig(
        corpus="text:corpora/wikibooks/**/*.txt",
        directory=_directory(sequence_length, max_word_length=max_word_length),
        batch_size=batch_size,
        sequence_length=sequence_length,
        max_word_length=max_word_length,
        train_shards=256,
        masking=replace(masking, static=True),
        evaluation_masking=masking,
    )


def _long_rows(
    steps: int,
    *,
    max_predictions: int = 77,
    max_word_length: int = 200,
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> PhaseConfig:
    """Returns a last phase on rows of 512 tokens."""
    rows = {
        "data.directory": _directory(512, max_word_length=max_word_length),
        "data.sequence_length": 512,
        "data.masking.max_predictions": max_predictions,
        "data.evaluation_masking.max_predictions": max_predictions,
    }
    return PhaseConfig(steps=steps, changes=rows | dict(changes or {}), **options)


def _directory(sequence_length: int, *, max_word_length: int = 200) -> str:
    return f"data/wikibooks-{sequence_length}-{max_word_length}"


def _large(**changes) -> BertConfig:
    return BertConfig(
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        dtype="bfloat16",
        scan_layers=True,
        **changes,
    )


def _training(steps: int, **changes) -> TrainingConfig:
    every = max(steps // 100, 1)
    return TrainingConfig(
        steps=steps,
        log_every=max(every // 10, 1),
        eval_every=every,
        checkpoint_every=every,
        **changes,
    )
