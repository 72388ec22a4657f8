"""Config of a fine-tuning: the task, the training and the optimizer."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, get_args

from msgspec import Meta

from bert_jax.config import PositiveInt, check_bounds
from bert_jax.errors import ConfigError, require
from bert_jax.models.config import Pooling
from bert_jax.sharding import MeshConfig, ShardingRules
from bert_jax.training.optim import OptimizerConfig

FamilyName = Literal[
    "classification", "regression", "tagging", "question_answering", "multiple_choice"
]
TokenRepresentation = Literal["last", "last4"]
Representation = Literal[Pooling, TokenRepresentation]

READ_BY: dict[str, tuple[FamilyName, ...]] = {
    "text_pair": ("classification", "regression", "question_answering", "multiple_choice"),
    "choice_start": ("multiple_choice",),
    "labels": ("classification", "tagging", "multiple_choice"),
    "stride": ("question_answering",),
    "max_question_length": ("question_answering",),
    "max_answer_length": ("question_answering",),
    "no_answer": ("question_answering",),
}
"""The families that read a field of `TaskConfig`; every family reads the others."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The data of a task, how they become inputs of the model, and the metric.

    `train`, `dev` and `test` are each `tsv:FILE`, `csv:FILE`, `jsonl:FILE`, `conll:FILE`,
    `conllu:FILE`, `squad:FILE`, `parquet:FILE` or `tfds:NAME:SPLIT`. Files may be compressed.
    """

    family: FamilyName
    train: str
    dev: str
    """Examples that choose the checkpoint and, with `no_answer`, the threshold for no answer."""
    test: str = ""
    """Examples that are evaluated once, with the checkpoint and threshold chosen on dev."""
    columns: tuple[str, ...] = ()
    """Column names of TSV or CoNLL files. A TSV file has its own in line 1 if this field is empty,
    or if line 1 has one of them among more or fewer cells. `tsv:FILE:COLUMN,COLUMN` names those of
    a single file, and so does `conll:`."""
    text: str = "text"
    """Field of the text, the tokens or the question."""
    text_pair: str = ""
    """Field of the second text or passage; in multiple choice, fields of the choices: `a,b,c`."""
    choice_start: str = ""
    """Field of a text that is put before each choice."""
    label: str = "label"
    """Field of the label, the tags or the answers."""
    labels: tuple[str, ...] = ()
    """All labels in the order of their numbers; if empty, the labels of the training examples."""
    metric: str = ""
    """Main metric, which chooses the checkpoint and gets an interval; empty: the family's first."""
    on_bad_record: Literal["stop", "skip"] = "stop"
    """Whether a malformed record is an error, or is left out and listed in result.json."""
    max_length: Annotated[int, Meta(ge=8)] = 128
    """Maximum length of a row in tokens, including [CLS] and [SEP]."""
    representation: Representation = "cls"
    """Input of the output layer, defined in `bert_jax.models.pooling`: `cls`, `pooled`, `mean`,
    `max` or `last4` for a text; `last` or `last4` for each token."""
    stride: PositiveInt = 128
    """Distance between the starts of a passage's windows, in tokens."""
    max_question_length: PositiveInt = 64
    """Maximum length of a question in tokens; longer questions are cut."""
    max_answer_length: PositiveInt = 30
    """Maximum length of a predicted answer in tokens."""
    no_answer: bool = False
    """Whether questions may have no answer, as in SQuAD 2."""

    def __post_init__(self):
        check_bounds(self, "task")
        token_task = self.family in ("tagging", "question_answering")
        accepted = get_args(TokenRepresentation if token_task else Pooling)
        words = f"{', '.join(accepted)} for {self.family}"
        require(self.representation in accepted, "task.representation", self.representation, words)
        if self.family == "question_answering":
            length, most = self.max_question_length, self.max_length - 8
            room = f"at most {most}, which leaves room for the passage in task.max_length"
            require(length <= most, "task.max_question_length", length, room)
        for name, values in (("labels", self.labels), ("columns", self.columns)):
            once = len(set(values)) == len(values)
            require(once, f"task.{name}", values, f"each {name[:-1]} once")

    def check_fields_are_read(self) -> None:
        """Raises ConfigError if the task ignores a field that is set, or lacks `text_pair`.

        Earlier versions trained with ignored fields, so such a config can still be opened.
        """
        second = {"question_answering": "passage", "multiple_choice": "choices"}.get(self.family)
        accepted = f"the field or fields of the {second} for {self.family}"
        require(self.text_pair or not second, "task.text_pair", self.text_pair, accepted)
        for each in fields(self):
            value, readers = getattr(self, each.name), READ_BY.get(each.name)
            read = readers is None or self.family in readers or value == each.default
            require(read, f"task.{each.name}", value, f"{each.default!r} for {self.family}")
        sets = (self.train, self.dev, self.test)
        named = any(one.startswith(("tsv:", "conll:")) for one in sets)
        accepted = "() without a set of tsv: or conll:, because other files name their own columns"
        require(named or not self.columns, "task.columns", self.columns, accepted)


@dataclass(frozen=True, kw_only=True)
class TaskTrainingConfig:
    """How long to train on a task, and which parameters to train."""

    epochs: PositiveInt = 3
    batch_size: PositiveInt = 32
    evaluation_batch_size: PositiveInt = 64
    warmup_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Fraction of all steps that are warm-up."""
    evaluations_per_epoch: PositiveInt = 1
    """Number of evaluations on dev in each epoch."""
    group_by_length: bool = False
    """Whether a batch holds rows of similar length, which saves most padding."""
    frozen: bool = False
    """Whether only the output layer is trained: a linear probe."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] | None = None
    """Dropout rate of the encoder and before the output layer; null keeps the model's rates."""
    from_scratch: bool = False
    """Whether all parameters start at random; only config and vocabulary are then loaded."""
    reinitialize_pooler: bool = False
    """Whether the pooler starts at random, for a checkpoint whose pooler was not trained."""

    def __post_init__(self):
        check_bounds(self, "training")
        names = ("frozen", "from_scratch", "reinitialize_pooler")
        given = [f"training.{name}" for name in names if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are true; accepted: at most one of them")


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """A fine-tuning; `get_config` of an experiment file returns it."""

    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    """First seed. A seed sets the initial output layer, the order of the examples and dropout."""
    task: TaskConfig
    training: TaskTrainingConfig = field(default_factory=TaskTrainingConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=2e-5, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        )
    )
    """By default AdamW with bias correction, which small sets need (Mosbach et al. 2021)."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    sharding: ShardingRules = field(default_factory=ShardingRules)

    def __post_init__(self):
        check_bounds(self)
        steps = self.optimizer.warmup_steps
        accepted = "0, because training.warmup_fraction sets the warm-up of a fine-tuning"
        require(not steps, "optimizer.warmup_steps", steps, accepted)
