"""Train a SentencePiece vocabulary: a unigram model over counts of what stands between spaces."""

import io
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import sentencepiece

from bert_jax.data.tokenizers.counts import thin
from bert_jax.data.tokenizers.sentencepiece import SPACE, SentencePiece
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES
from bert_jax.errors import DataError

MAX_STRETCHES = 2**19
"""Most distinct stretches counted at a time, some 120 MB of Chinese."""
MAX_STRETCH = 128
"""Characters between two spaces that are counted as one; longer ones are cut, which pieces of at
most 16 characters hardly notice, before they are counted, so that memory stays bounded."""
MAX_TRAINING_CHARACTERS = 2**23
"""Running text that the trainer sees; it lays the counts out again, 20 to 40 bytes a character."""

_STRETCH = re.compile(rf"\S{{1,{MAX_STRETCH}}}")
_NORMALIZERS = {True: "nmt_nfkc_cf", False: "nmt_nfkc"}
_PAD, _UNK, *_CONTROL = SPECIAL_PIECES


def count_stretches(sentences: Iterable[str], *, lower_case: bool) -> Counter[str]:
    """How often each stretch between spaces occurs, normalized; a Chinese sentence is a single one.

    Where there are more than `MAX_STRETCHES`, they are a sample: see `thin`.
    """
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name=_NORMALIZERS[lower_case])
    rng = random.Random(0)
    raw = Counter()
    for sentence in sentences:
        raw.update(_STRETCH.findall(sentence))
        if len(raw) > MAX_STRETCHES:
            thin(raw, limit=MAX_STRETCHES // 2, rng=rng)
    stretches = Counter()
    for stretch, count in raw.items():
        for part in normalizer.normalize(stretch).replace(SPACE, " ").split():
            stretches[part] += count
    return stretches


def merge_stretches(parts: Iterable[Mapping[str, int]]) -> Counter[str]:
    """The sum of what `count_stretches` gave for each part of a corpus, in this order."""
    rng = random.Random(0)
    stretches = Counter()
    for part in parts:
        stretches.update(part)
        if len(stretches) > MAX_STRETCHES:
            thin(stretches, limit=MAX_STRETCHES // 2, rng=rng)
    return stretches


def train_sentencepiece(
    counts: Mapping[str, int], *, vocab_size: int, lower_case: bool
) -> SentencePiece:
    """Unigram model (Kudo 2018) of exactly `vocab_size` pieces, the special ones first.

    A function of the counts, not of their order. The rarest characters, 0.005 % of the text or
    what three quarters of the vocabulary cannot hold, are in no piece.

    Args:
      counts: from `count_stretches` with the same `lower_case`.

    Raises:
      DataError: the corpus is too small for `vocab_size`, or `vocab_size` for any corpus.
    """
    sample = _sample(counts)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{stretch}\t{count}" for stretch, count in sample.items()),
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
            num_threads=1,  # with more the scores depend on how many
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(error, vocab_size=vocab_size, empty=not sample) from error
    return SentencePiece(model=model.getvalue())


def _sample(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts in proportion, of at most about `MAX_TRAINING_CHARACTERS`; rounded by chance."""
    rng = random.Random(0)
    characters = sum(count * (len(stretch) + 1) for stretch, count in counts.items())
    share = min(1, MAX_TRAINING_CHARACTERS / max(1, characters))
    scaled = {stretch: counts[stretch] * share for stretch in sorted(counts)}
    rounded = {stretch: int(n) + (rng.random() < n % 1) for stretch, n in scaled.items()}
    return {stretch: count for stretch, count in rounded.items() if count}


def _coverage(counts: Mapping[str, int], *, most: int) -> float:
    """Share of the text that the characters of the vocabulary make up, 99.995 % for ALBERT's.

    Chinese has more characters than a small vocabulary; the trainer leaves out 2 % at most.
    """
    characters = Counter()
    for stretch, count in counts.items():
        for character in SPACE + stretch:
            characters[character] += count
    kept = sum(count for _, count in characters.most_common(most))
    return min(0.99995, max(0.98, kept / max(1, characters.total())))


def _explained(error: RuntimeError, *, vocab_size: int, empty: bool) -> Exception:
    """What the trainer says of a size that it cannot reach, in one line."""
    said = str(error)
    if empty or (match := re.search(r"value <= (\d+)", said)):
        largest = 0 if empty else int(match[1])
        return DataError(
            f"vocab_size is {vocab_size}; accepted: at most {largest}, "
            "all the pieces that this corpus gives"
        )
    if match := re.search(r"(\d+) vs (\d+)", said):
        return DataError(
            f"vocab_size is {vocab_size}; accepted: at least {match[2]}, the special pieces "
            "and the characters of this corpus"
        )
    return error
