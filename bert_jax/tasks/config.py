"""Config of a fine-tuning: the task, the training and the optimizer."""

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

    `train`, `dev` and `test` are each `tsv:FILE`, `csv:FILE`, `jsonl:FILE`, `conll:FILE`,
    `conllu:FILE`, `squad:FILE` or `tfds:NAME:SPLIT`.
    """

    family: FamilyName
    train: str
    dev: str
    """Examples that choose the checkpoint and, for questions without answer, the threshold."""
    test: str = ""
    """Examples that are evaluated once, with the checkpoint and threshold chosen on dev."""
    columns: tuple[str, ...] = ()
    """Column names of a TSV or CoNLL file; if empty, the first line of a TSV file has them."""
    text: str = "text"
    """Field of the text, the tokens or the question."""
    text_pair: str = ""
    """Field of the second text or the passage; in multiple choice, fields joined by commas."""
    choice_start: str = ""
    """Field of a text that is put before each choice."""
    label: str = "label"
    """Field of the label, the tags or the answers."""
    labels: tuple[str, ...] = ()
    """All labels in the order of their numbers; if empty, the labels of the training examples."""
    metric: str = ""
    """Main metric: it chooses the checkpoint and gets an interval. Default: the family's first."""
    max_length: int = 128
    """Maximum length of a row in tokens, including [CLS] and [SEP]."""
    representation: Representation = "cls"
    """Input of the output layer, defined in `bert_jax.models.pooling`: `cls`, `pooled`, `mean`,
    `max` or `last4` for a text; `last` or `last4` for each token."""
    stride: int = 128
    """Distance between the windows of a passage, in tokens."""
    max_question_length: int = 64
    """Maximum length of a question in tokens; longer questions are cut."""
    max_answer_length: int = 30
    """Maximum length of a predicted answer in tokens."""
    no_answer: bool = False
    """Whether questions may have no answer, as in SQuAD 2."""

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
class TaskTrainingConfig:
    """How long to train on a task, and which parameters to train."""

    epochs: int = 3
    batch_size: int = 32
    evaluation_batch_size: int = 64
    warmup_fraction: float = 0.1
    """Fraction of all steps in which the learning rate rises."""
    evaluations_per_epoch: int = 1
    """Number of evaluations on dev in each epoch."""
    group_by_length: bool = False
    """Whether a batch holds rows of similar length, which saves most padding."""
    frozen: bool = False
    """Whether only the output layer is trained: a linear probe."""
    dropout: float | None = None
    """Dropout rate of the encoder and before the output layer; null keeps the model's rates."""
    from_scratch: bool = False
    """Whether all parameters are drawn, and only model and vocabulary come from the checkpoint."""
    reinitialize_pooler: bool = False
    """Whether the pooler is drawn, for a checkpoint whose pooler was not trained."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "evaluation_batch_size", "evaluations_per_epoch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; accepted: at least 1")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(
                f"training.warmup_fraction is {self.warmup_fraction}; accepted: at least 0, below 1"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ConfigError(
                f"training.dropout is {self.dropout}; accepted: at least 0, below 1, null"
            )
        names = ("frozen", "from_scratch", "reinitialize_pooler")
        if len(given := [name for name in names if getattr(self, name)]) > 1:
            raise ConfigError(
                f"{' and '.join(f'training.{name}' for name in given)} are true; accepted: at most "
                "one of them"
            )


def _optimizer() -> OptimizerConfig:
    """AdamW with bias correction; training on small sets fails without it (Mosbach et al. 2021)."""
    return OptimizerConfig(
        learning_rate=2e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
    )


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """A fine-tuning; `get_config` of an experiment file returns it."""

    seed: int = 0
    """The first seed. A seed draws the output layer, the order of the examples and dropout."""
    task: TaskConfig
    training: TaskTrainingConfig = field(default_factory=TaskTrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=_optimizer)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:  # the seeds after it must fit into 32 bits
            raise ConfigError(f"seed is {self.seed}; accepted: 0 to {2**31 - 1}")
        if self.optimizer.warmup_steps:
            raise ConfigError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}; accepted: 0, because "
                "training.warmup_fraction sets the warm-up of a fine-tuning"
            )
        for path, value in flatten(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{path} is {value}; accepted: finite numbers")
