"""BERT as six code bases train it; docs/recipe.md shows how they differ.

    python -m bert_jax.config --diff experiments/presets.py:devlin2018 experiments/presets.py:mlperf
    python -m bert_jax.pretrain --experiment=experiments/presets.py:hf_bert --workdir=runs/hf_bert

A preset reproduces the behaviour of the source's code with the published settings of its main run.
The corpus is English Wikipedia and books, as in bert.py. `prepare` writes one directory for each
sequence length and each `data.max_word_length`.

No preset reproduces these details of the sources:

- The loss is a mean of the means of replicas or micro-batches. Here every loss is divided by the
  number of masked words in the global batch.
- Each replica clips its gradients before they are summed (google_bert_tf1 on TPUs, MLPerf's
  reference). The update would then depend on the number of replicas.
- Google's code adds 1e-5 to the number of masked words. This lowers the loss by at most 1e-5 of its
  value.
- nvidia_lamb trains in fp16 with loss scaling. Here it uses bfloat16.

The docstring of a preset names the details that only its source has. All presets draw evaluation
masks in the same way (80/10/10 split, rounded number), so their runs are comparable. All presets
except hf_bert have static masks, so each text has only `dupe_factor` different masks.
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

    GELU has the exact erf form, with which the released checkpoints were trained. The last tenth of
    the updates uses rows of 512 tokens, under the same learning-rate schedule.

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

    GELU now has the tanh form. The defaults of 32 rows and 100,000 updates are for first trials.
    Two details are not reproduced. On TPUs, the source clips the gradients on each replica. It
    evaluates only 100 batches; here all held-out rows are evaluated.

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

    Learning rate, warm-up and batch size are those of the paper, because the Trainer's defaults are
    for fine-tuning. The Trainer does not limit the number of predictions in a row. Here a row of
    128 tokens has room for 40 predictions and a row of 512 tokens for 120. Fewer than one row in a
    million needs more. One detail is not reproduced: Hugging Face initializes the embedding of
    [PAD] with 0. No loss depends on it.

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
    """NVIDIA's BERT-large with LAMB.

    The first phase has 7,038 updates on 65,536 rows of 128 tokens. The second phase has 1,563
    updates on 32,768 rows of 512 tokens. It keeps Adam's moments, but the step count of their bias
    correction starts at 0. Each phase has its own learning-rate schedule; the rate is proportional
    to the square root of the share of steps that remain. The optimizer is FusedLAMB without the
    NVLAMB option: parameters without weight decay have no trust ratio. GELU has the erf form, as in
    NVIDIA's PyTorch code. Two details are not reproduced: fp16, and a softmax over all 30,528
    entries of a padded vocabulary.

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

    The benchmark starts from its own checkpoint of phase one; `training.init_from` can name it. It
    ends at a masked-LM accuracy of 0.72 on 10,000 examples. One detail is not reproduced: clipping
    on each replica.

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

    Masked words always become [MASK]. The loss of a pair is the sum of the losses of its masked
    words plus the next-sentence loss. A single text has no final [SEP].
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
    """Returns the preset that `variant` names, such as `devlin2018()`."""
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
