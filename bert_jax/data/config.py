"""What the data of an experiment are: where they lie, how they were made, how they are read."""

from dataclasses import dataclass, field

from bert_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How words are chosen and replaced for the masked language model (Devlin et al. 2018, 3.1)."""

    rate: float = 0.15
    """Share of a row's tokens, [CLS] and [SEP] counted, that is predicted."""
    max_predictions: int = 20
    """Most predictions in a row; also the static width of the `mask_*` fields of a batch."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the chosen words that become [MASK], a random word, or stay as they are."""

    def __post_init__(self):
        if not 0 < self.rate <= 1:
            raise ConfigError(f"masking.rate is {self.rate}; accepted: above 0, at most 1")
        if self.max_predictions < 1:
            raise ConfigError(
                f"masking.max_predictions is {self.max_predictions}; accepted: at least 1"
            )
        if min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-6:
            raise ConfigError(
                f"masking.split is {self.split}; accepted: three shares of 0 or more that sum to 1"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One corpus as pretraining data."""

    directory: str
    """Where `bert_jax.prepare` writes the vocabulary and the shards and training reads them."""
    corpus: str
    """Raw text: SPEC[@WEIGHT],..., such as `embedded:sotu` or `text:GLOB`; see `data.corpora`."""
    batch_size: int = 256
    """Rows of the global batch, all devices and hosts together."""
    sequence_length: int = 128
    lower_case: bool = True
    """Lower-case the text and strip accents (the uncased models)."""
    dupe_factor: int = 10
    """How often each document is cut into pairs, with other lengths and other partners."""
    short_sequence_probability: float = 0.1
    """Probability that a document's pairs are cut to a random shorter length."""
    single_text_separator: bool = True
    """A single text is [CLS] A [SEP]; False makes it [CLS] A."""
    held_out_fraction: float = 0.005
    """Share of the documents kept for evaluation; `embedded:sotu` names its own and ignores it."""
    train_shards: int = 8
    preparation_seed: int = 12345
    """Draws lengths and partners; masks and order are drawn from the experiment's `seed`."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    evaluation_masking: MaskingConfig = field(default_factory=MaskingConfig)
    """Held-out masks are frozen: drawn once, whatever the experiment's seed."""

    def __post_init__(self):
        for name in ("batch_size", "dupe_factor", "train_shards"):
            if getattr(self, name) < 1:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; accepted: at least 1")
        if self.sequence_length < 5:
            raise ConfigError(
                f"data.sequence_length is {self.sequence_length}; accepted: at least 5, "
                "the shortest pair being [CLS] a [SEP] b [SEP]"
            )
        for name in ("masking", "evaluation_masking"):
            masking = getattr(self, name)
            chosen = int(self.sequence_length * masking.rate)
            if masking.max_predictions < chosen:
                raise ConfigError(
                    f"data.{name}.max_predictions is {masking.max_predictions}, which cuts "
                    f"data.{name}.rate {masking.rate} of {self.sequence_length} tokens short; "
                    f"accepted: at least {chosen}"
                )
        for name in ("short_sequence_probability", "held_out_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; accepted: 0 to 1")


PREPARATION_FIELDS = (
    "sequence_length",
    "lower_case",
    "dupe_factor",
    "short_sequence_probability",
    "held_out_fraction",
    "train_shards",
    "preparation_seed",
)
"""Fields of DataConfig that the files in `directory` depend on; the text counts by its hash."""
