"""Which task, how a sentence is represented, and how long to train: what fine-tuning depends on."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from bert_jax.config import flatten
from bert_jax.errors import ConfigError
from bert_jax.models.config import Pooling
from bert_jax.sharding import MeshConfig, ShardingRules
from bert_jax.training.optim import OptimizerConfig

FamilyName = Literal[
    "classification", "regression", "tagging", "question_answering", "multiple_choice"
]
TokenRepresentation = Literal["last", "last4"]
Representation = Literal[Pooling, TokenRepresentation]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The data of a task, and how they are read, represented and measured.

    A set of examples is `tsv:FILE`, `csv:FILE`, `jsonl:FILE`, `conll:FILE`, `conllu:FILE`,
    `squad:FILE` or `tfds:NAME:SPLIT`.
    """

    family: FamilyName
    train: str
    dev: str
    """Chooses the checkpoint (and, of questions, the threshold); never trained on."""
    test: str = ""
    """Measured once, with what dev chose."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a TSV or CoNLL file; of a TSV without them, its first line."""
    text: str = "text"
    """Field of the text, of the tokens or of the question."""
    text_pair: str = ""
    """Field of the second text or of the passage; of a choice, the fields divided by commas."""
    choice_start: str = ""
    """Field of the words that each choice begins with."""
    label: str = "label"
    """Field of the label, of the tags or of the answers."""
    labels: tuple[str, ...] = ()
    """All of them, in the order of their numbers; those of the training examples if empty."""
    metric: str = ""
    """What chooses the checkpoint and is summarized over seeds; if empty, the family's first."""
    max_length: int = 128
    """Positions of a row, with [CLS] and [SEP]."""
    representation: Representation = "cls"
    """What the output layer sees; see `bert_jax.models.pooling`. Of a text `cls`, `pooled`,
    `mean`, `max` or `last4`; of each token `last` or `last4`."""
    stride: int = 128
    """Of a passage's windows, in tokens."""
    max_question_length: int = 64
    max_answer_length: int = 30
    """In tokens."""
    no_answer: bool = False
    """Questions may have none, as in SQuAD 2."""

    def __post_init__(self):
        token_task = self.family in ("tagging", "question_answering")
        accepted = get_args(TokenRepresentation if token_task else Pooling)
        if self.representation not in accepted:
            raise ConfigError(
                f"task.representation is {self.representation!r}; accepted for {self.family}: "
                f"{', '.join(accepted)}"
            )
        for name in ("stride", "max_question_length", "max_answer_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name} is {getattr(self, name)}; accepted: at least 1")
        if self.max_length < 8:
            raise ConfigError(f"task.max_length is {self.max_length}; accepted: at least 8")
        if self.family == "question_answering" and self.max_question_length > self.max_length - 8:
            raise ConfigError(
                f"task.max_question_length {self.max_question_length} leaves no room for the "
                f"passage in task.max_length {self.max_length}"
            )
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"task.labels are {self.labels}; accepted: different ones")


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """How long to train on a task, and what of the encoder is trained."""

    epochs: int = 3
    batch_size: int = 32
    evaluation_batch_size: int = 64
    warmup_fraction: float = 0.1
    """Of all steps."""
    evaluations_per_epoch: int = 1
    group_by_length: bool = False
    """Batches are of rows of similar length, which leaves most padding out."""
    patience: int | None = None
    """Evaluations without a better dev metric after which a seed stops; null for all epochs."""
    frozen: bool = False
    """Only the output layer is trained: a linear probe."""
    dropout: float | None = None
    """Of hidden states, attention probabilities and before the output layer; null as pretrained."""
    layer_decay: float = 1.0
    """Rate of each layer by that of the one above it; the last one's is `layer_decay`^2 times that
    of the output layer, the embeddings' the lowest: as google-research/electra."""
    from_scratch: bool = False
    """What pretraining is compared with: of the checkpoint only model and vocabulary are used."""
    reinitialize_pooler: bool = False
    reinitialize_layers: int = 0
    """Last layers to begin anew, as Zhang et al. 2021 (https://arxiv.org/abs/2006.05987)."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "evaluation_batch_size", "evaluations_per_epoch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; accepted: at least 1")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"training.patience is {self.patience}; accepted: at least 1, null")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(
                f"training.warmup_fraction is {self.warmup_fraction}; accepted: at least 0, below 1"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(
                f"training.dropout is {self.dropout}; accepted: at least 0, below 1, null"
            )
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"training.layer_decay is {self.layer_decay}; accepted: above 0, at most 1"
            )
        if self.reinitialize_layers < 0:
            raise ConfigError(
                f"training.reinitialize_layers is {self.reinitialize_layers}; accepted: 0 or more"
            )
        anew = self.reinitialize_layers or self.reinitialize_pooler
        if self.frozen + bool(anew) + self.from_scratch > 1:
            raise ConfigError(
                "training.frozen keeps what training.reinitialize_* begins anew in part and "
                "training.from_scratch all of; accepted: one of them"
            )


def _optimizer() -> OptimizerConfig:
    """AdamW with bias correction, without which small sets fail (Mosbach et al. 2021)."""
    return OptimizerConfig(
        learning_rate=2e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
    )


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """One fine-tuning; an experiment file's `get_config` returns one."""

    seed: int = 0
    """Of the first run: draws its output layer, the order of its examples and dropout."""
    task: TaskConfig
    training: TuningConfig = field(default_factory=TuningConfig)
    optimizer: OptimizerConfig = field(default_factory=_optimizer)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:  # room for the seeds after it
            raise ConfigError(f"seed is {self.seed}; accepted: 0 to {2**31 - 1}")
        if self.optimizer.warmup_steps:
            raise ConfigError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}; accepted: 0, for "
                "training.warmup_fraction says how long the warm-up of a fine-tuning is"
            )
        for path, value in flatten(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{path} is {value}; accepted: finite numbers")
