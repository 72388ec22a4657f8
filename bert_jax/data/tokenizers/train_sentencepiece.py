"""Trains a SentencePiece unigram model on counts of pretokens (text between two spaces)."""

import io
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import sentencepiece

from bert_jax.data.tokenizers.base import SPECIAL_PIECES
from bert_jax.data.tokenizers.counts import bound
from bert_jax.data.tokenizers.sentencepiece import SPACE, SentencePiece
from bert_jax.errors import DataError

MAX_PRETOKENS = 2**19
"""Maximum number of distinct pretokens counted at a time (about 120 MB for Chinese)."""
MAX_PRETOKEN_LENGTH = 128
"""Maximum length of a pretoken in characters. Longer pretokens are cut, to bound memory. Pieces
have at most 16 characters, so cuts hardly change the vocabulary."""
MAX_TRAINING_CHARACTERS = 2**23
"""Maximum number of characters in the trainer's input. Each takes 20 to 40 bytes of memory."""

_PRETOKEN = re.compile(rf"\S{{1,{MAX_PRETOKEN_LENGTH}}}")
_NORMALIZERS = {True: "nmt_nfkc_cf", False: "nmt_nfkc"}
_PAD, _UNK, *_CONTROL = SPECIAL_PIECES


def count_pretokens(sentences: Iterable[str], *, lower_case: bool) -> Counter[str]:
    """Counts pretokens: the parts of the normalized text between spaces.

    A Chinese sentence is one pretoken. Beyond `MAX_PRETOKENS`, `bound` keeps a random sample.
    """
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name=_NORMALIZERS[lower_case])
    rng = random.Random(0)
    raw = Counter()
    for sentence in sentences:
        raw.update(_PRETOKEN.findall(sentence))
        bound(raw, limit=MAX_PRETOKENS, rng=rng)
    pretokens = Counter()
    for pretoken, count in raw.items():
        for part in normalizer.normalize(pretoken).replace(SPACE, " ").split():
            pretokens[part] += count
    return pretokens


def train_sentencepiece(
    counts: Mapping[str, int], *, vocab_size: int, lower_case: bool
) -> SentencePiece:
    """Trains a unigram model (Kudo 2018) of exactly `vocab_size` pieces, special pieces first.

    The counts are those of `count_pretokens` with the same `lower_case`, which says whether the
    normalizer lower-cases text. The order of the counts does not matter. Single characters fill at
    most three quarters of the vocabulary and cover at most 99.995 % of the text. The rarest
    characters are in no piece.

    Raises:
      DataError: `vocab_size` is too large for the corpus, or too small for its characters.
    """
    sample = _sample(counts)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{pretoken}\t{count}" for pretoken, count in sample.items()),
            model_writer=model,
            input_format="tsv",
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=_coverage(counts, most=3 * vocab_size // 4),
            normalization_rule_name=_NORMALIZERS[lower_case],
            max_sentence_length=2**20,
            pad_id=0,
            pad_piece=_PAD,
            unk_id=1,
            unk_piece=_UNK,
            bos_id=-1,
            eos_id=-1,
            control_symbols=_CONTROL,  # ids 2, 3 and 4
            num_threads=1,  # the scores depend on the number of threads
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(error, vocab_size=vocab_size, empty=not sample) from error
    return SentencePiece(model=model.getvalue())


def _sample(counts: Mapping[str, int]) -> dict[str, int]:
    """Scales counts down, with random rounding, to about `MAX_TRAINING_CHARACTERS` in total."""
    rng = random.Random(0)
    characters = sum(count * (len(pretoken) + 1) for pretoken, count in counts.items())
    share = min(1, MAX_TRAINING_CHARACTERS / max(1, characters))
    scaled = {pretoken: counts[pretoken] * share for pretoken in sorted(counts)}
    rounded = {pretoken: int(n) + (rng.random() < n % 1) for pretoken, n in scaled.items()}
    return {pretoken: count for pretoken, count in rounded.items() if count}


def _coverage(counts: Mapping[str, int], *, most: int) -> float:
    """Returns the share of the text that the characters of the vocabulary should cover.

    The share is ALBERT's 99.995 %. It is lower if the text, such as Chinese, has too many
    characters for the vocabulary. The trainer accepts no share below 98 %.
    """
    characters = Counter()
    for pretoken, count in counts.items():
        for character in SPACE + pretoken:
            characters[character] += count
    kept = sum(count for _, count in characters.most_common(most))
    return min(0.99995, max(0.98, kept / max(1, characters.total())))


def _explained(error: RuntimeError, *, vocab_size: int, empty: bool) -> Exception:
    """Converts the trainer's error to a DataError if the corpus cannot give `vocab_size`."""
    said = str(error)
    if empty or (match := re.search(r"value <= (\d+)", said)):
        largest = 0 if empty else int(match[1])
        return DataError(
            f"model.vocab_size is {vocab_size}; accepted: at most {largest}, "
            "all the pieces that this corpus gives"
        )
    if match := re.search(r"(\d+) vs (\d+)", said):
        return DataError(
            f"model.vocab_size is {vocab_size}; accepted: at least {match[2]}, the special pieces "
            "and the characters of this corpus"
        )
    return error
