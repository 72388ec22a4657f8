"""Data configs: where the data of an experiment are, and how they are prepared and masked."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from msgspec import Meta

from bert_jax.config import PositiveInt, Share, check_bounds
from bert_jax.config.bounds import nearest, similar
from bert_jax.config.paths import check_path
from bert_jax.data.sentences import LANGUAGES
from bert_jax.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How words are chosen and replaced for the masked language model (Devlin et al. 2018, 3.1)."""

    unit: Literal["token", "word", "span"] = "token"
    """Unit of masking. `token`: single tokens. `word`: all tokens of a word; `split` is applied to
    each token (whole-word models of google-research/bert). `span`: consecutive whole words; `split`
    is applied to the whole span. The number of words is geometric with p = 0.2 and at most 10
    (SpanBERT, Joshi et al. 2019)."""
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.15
    """Share of a row's tokens that are predicted; [CLS] and [SEP] count as tokens."""
    rate_points: tuple[tuple[float, float], ...] = ()
    """Points (share of the run's steps, rate) of a rate that changes during training. The rate
    starts at `rate`, is interpolated linearly between the points, and is constant after the last
    point. Two points at the same share make the rate jump. `((1.0, 0.15),)` changes the rate
    linearly from `rate` to 0.15 (Ankner et al. 2023)."""
    count: Literal["rounded", "floored", "drawn"] = "rounded"
    """Number of predictions in a row of n tokens. `rounded`: `rate * n` to the nearest integer,
    halves to even, at least 1 (google-research/bert). `floored`: rounded down, at least 1.
    `drawn`: each token or word is drawn with probability `rate` (Hugging Face); possibly none."""
    max_predictions: PositiveInt = 20
    """Maximum number of predictions in a row, the static width of a batch's `mask_*` fields."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the chosen tokens that become [MASK], become a random piece, or stay unchanged."""
    static: bool = False
    """Whether every epoch has the masks of the first epoch, as in files with fixed masks
    (google-research/bert). A text then has `data.dupe_factor` different masks."""

    def __post_init__(self):
        check_bounds(self, "masking")
        shares = [share for share, _ in self.rate_points]
        good = shares == sorted(shares) and all(0 <= share <= 1 for share in shares)
        good = good and all(0 < rate <= 1 for _, rate in self.rate_points)
        accepted = "ascending shares from 0 to 1, each with a rate in (0, 1]"
        require(good, "masking.rate_points", self.rate_points, accepted)
        good = self.unit != "span" or self.count != "drawn"
        accepted = "'rounded', 'floored' with masking.unit=span"
        require(good, "masking.count", self.count, accepted)
        whole = min(self.split) >= 0 and abs(sum(self.split) - 1) <= 1e-6
        accepted = "three shares of 0 or more that sum to 1"
        require(whole, "masking.split", self.split, accepted)

    @property
    def highest_rate(self) -> float:
        """Highest rate of all steps."""
        return max(self.rate, *(rate for _, rate in self.rate_points), 0)

    def at(self, progress: float) -> "MaskingConfig":
        """Returns the config with a constant rate, the rate after share `progress` of the steps."""
        if not self.rate_points:
            return self
        points = ((0.0, self.rate), *self.rate_points, (2.0, self.rate_points[-1][1]))
        after = next(i for i, (share, _) in enumerate(points) if share > progress)
        (start, before), (end, rate) = points[after - 1 : after + 1]
        rate = before + (rate - before) * (progress - start) / (end - start)
        return replace(self, rate=rate, rate_points=())


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The pretraining data of an experiment."""

    directory: str
    """Directory of the vocabulary and the shards. `prepare` writes it, and `pretrain` reads it."""
    corpus: str
    """Raw text as SPEC[@WEIGHT],..., such as `embedded:sotu` or `text:GLOB`; see docs/data.md."""
    batch_size: PositiveInt = 256
    """Number of rows in the global batch, over all devices and hosts."""
    sequence_length: Annotated[int, Meta(ge=5)] = 128
    """Number of positions in a row, at least 5: the shortest pair is [CLS] a [SEP] b [SEP]."""
    language: str = "en"
    """Language of the text, as a code of ISO 639-1. Its rules say where a sentence ends."""
    tokenizer: str = "wordpiece"
    """Kind of tokenizer. `wordpiece`: BERT's. `sentencepiece`: the unigram model of ALBERT and T5,
    which needs no spaces between words. `file:tokenizer.json`: a tokenizer of Hugging Face's
    `tokenizers` library, such as byte-level BPE, which is not trained."""
    lower_case: bool = True
    """Whether text is lower-cased. A tokenizer of `file:` must agree."""
    strip_accents: bool | None = None
    """Whether WordPiece removes accents and umlauts (ä becomes a). null: as `lower_case`, which
    gives the cased and the uncased models of Devlin et al. 2018. Null for other tokenizers."""
    max_word_length: PositiveInt = 200
    """Maximum length of a word in characters; a longer word becomes [UNK]. The limit is 200 in
    Google's code and 100 in Hugging Face's. Only WordPiece has this limit."""
    pairs: Literal["next_sentence", "sentence_order", "none"] = "next_sentence"
    """How texts A and B of an example are chosen. `next_sentence`: B follows A or is random (BERT).
    `sentence_order`: B follows A or A follows B (ALBERT). `none`: whole sentences as a single text
    without a label (RoBERTa)."""
    pairs_per_row: PositiveInt = 1
    """Maximum number of pairs packed into one row (1 = no packing). Attention does not cross pairs.
    Held-out rows are never packed, so evaluations are comparable."""
    dupe_factor: PositiveInt = 10
    """Number of times that a document is cut into pairs, each time with other random draws."""
    short_sequence_probability: Share = 0.1
    """Probability that a document is cut into pairs of a random shorter length."""
    single_text_separator: bool = True
    """Whether a single text ends with [SEP]: [CLS] A [SEP], or [CLS] A."""
    held_out_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.005
    """Share of the documents that are held out for evaluation. `embedded:sotu` has its own held-out
    documents and ignores this field."""
    train_shards: PositiveInt = 8
    """Number of files of training rows."""
    preparation_seed: int = 12345
    """Seed of the pairs that `prepare` makes. The experiment's `seed` draws masks and row order."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    evaluation_masking: MaskingConfig = field(default_factory=MaskingConfig)
    """Masking of held-out rows. Their masks are the same for every seed and at every step."""

    def __post_init__(self):
        check_bounds(self, "data")
        if self.language not in LANGUAGES:
            accepted = "accepted: a code of two letters, such as de or fi"
            names = {name.lower(): code for code, name in LANGUAGES.items()}
            names |= {"deutsch": "de"}  # else Dutch would be the nearest name
            if near := similar(self.language.lower(), names, cutoff=0.7):
                found = " or ".join(f"{names[name]} ({name.title()})" for name in near)
                accepted = f"did you mean {found}"
            elif len(self.language) < 4:  # else it is a name
                accepted = nearest(self.language[:2].lower(), LANGUAGES)
            raise ConfigError(
                f"data.language is {self.language!r:.60}; {accepted} (codes of ISO 639-1)"
            )
        kinds = ("wordpiece", "sentencepiece", "huggingface")
        if self.tokenizer_kind not in kinds or self.tokenizer in ("huggingface", "file:"):
            raise ConfigError(
                f"data.tokenizer is {self.tokenizer!r:.60}; accepted: wordpiece, sentencepiece, or "
                "file:PATH of a tokenizer.json"
            )
        for name in ("strip_accents", "max_word_length"):
            value, default = getattr(self, name), getattr(DataConfig, name)
            if self.tokenizer != "wordpiece" and value != default:
                wanted = "null" if default is None else default
                raise ConfigError(
                    f"data.{name} is {value} with data.tokenizer {self.tokenizer!r:.60}, which has "
                    f"no such setting; accepted: {wanted}, the default"
                )
        check_path(self.directory, name="data.directory")
        for name in ("masking", "evaluation_masking"):
            masking = getattr(self, name)
            chosen = int(self.sequence_length * masking.highest_rate)
            if masking.max_predictions < chosen:
                raise ConfigError(
                    f"data.{name}.max_predictions is {masking.max_predictions}, which is less than "
                    f"data.{name}.rate {masking.highest_rate} of {self.sequence_length} tokens; "
                    f"accepted: at least {chosen}"
                )
        if self.masking.static and self.masking.rate_points:
            raise ConfigError(
                "data.masking.static is True, but data.masking.rate_points change the masks "
                "during training; accepted: one of the two"
            )
        points = self.evaluation_masking.rate_points
        accepted = "(), because held-out masks are the same at every step"
        require(not points, "data.evaluation_masking.rate_points", points, accepted)

    @property
    def tokenizer_kind(self) -> str:
        """The kind in the description of a tokenizer: that of a `file:` is `huggingface`."""
        return "huggingface" if self.tokenizer.startswith("file:") else self.tokenizer

    @property
    def stripping(self) -> bool | None:
        """`strip_accents`, or None if it equals `lower_case`: the form that tokenizers store."""
        return None if self.strip_accents == self.lower_case else self.strip_accents


PREPARATION_FIELDS = (
    "sequence_length",
    "language",
    "tokenizer",
    "lower_case",
    "strip_accents",
    "max_word_length",
    "pairs",
    "pairs_per_row",
    "dupe_factor",
    "short_sequence_probability",
    "held_out_fraction",
    "train_shards",
    "preparation_seed",
)
"""Fields of DataConfig that, together with the text, determine the files in `directory`."""

LATER_FIELDS = ("language", "strip_accents")
"""Preparation fields that earlier data lack. Such data were prepared with the field's default."""
