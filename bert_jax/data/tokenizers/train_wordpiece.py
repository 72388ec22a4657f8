"""Trains a WordPiece vocabulary by byte-pair encoding. All machines give the same vocabulary."""

import io
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any

import sentencepiece

from bert_jax.data.tokenizers.counts import bound
from bert_jax.data.tokenizers.wordpiece import MAX_WORD_LENGTH, SPECIAL_PIECES, WordPiece
from bert_jax.data.tokenizers.words import space_ideographs, split_whitespace, split_word
from bert_jax.errors import DataError, require

MIN_CHARACTER_COUNT = 5
"""A character that occurs less often gets no piece: its embedding could not be learnt."""
MAX_CHARACTERS = 1000
"""Maximum size of the alphabet. Web text has many rare characters."""
MAX_DISTINCT_WORDS = 2**20
"""Maximum number of distinct words counted at a time (about 200 MB for English)."""

_WORD_MARK = "▁"  # SentencePiece puts this character before each word.
_RESERVED_CHARACTERS = frozenset("▁▅")  # SentencePiece gives these characters a meaning.


def count_words(
    texts: Iterable[str], *, lower_case: bool, strip_accents: bool | None = None
) -> Counter[str]:
    """Counts each word and punctuation mark of the texts.

    If there are more than `MAX_DISTINCT_WORDS` distinct words, `bound` keeps a sample of them.
    Words of more than `MAX_WORD_LENGTH` characters are left out.
    """
    rng = random.Random(0)
    words_of = partial(_words_of, lower_case=lower_case, strip_accents=strip_accents)
    raw_words, words = Counter(), Counter()
    for text in texts:
        pretokens = split_whitespace(space_ideographs(text))
        if max(map(len, pretokens), default=0) > MAX_WORD_LENGTH:
            long = [one for one in pretokens if len(one) > MAX_WORD_LENGTH]
            pretokens = [one for one in pretokens if len(one) <= MAX_WORD_LENGTH]
            words.update(chain.from_iterable(map(words_of, long)))
            bound(words, limit=MAX_DISTINCT_WORDS, rng=rng)
        raw_words.update(pretokens)
        bound(raw_words, limit=MAX_DISTINCT_WORDS, rng=rng)
    for raw_word, count in raw_words.items():
        for word in words_of(raw_word):
            words[word] += count
    bound(words, limit=MAX_DISTINCT_WORDS, rng=rng)
    return words


def _words_of(pretoken: str, **normalization: Any) -> list[str]:
    words = split_word(pretoken, **normalization)
    return [word for word in words if len(word) <= MAX_WORD_LENGTH]


def train_wordpiece(
    word_counts: Mapping[str, int],
    *,
    vocab_size: int,
    lower_case: bool,
    strip_accents: bool | None = None,
    max_word_length: int = MAX_WORD_LENGTH,
) -> WordPiece:
    """Trains a vocabulary of exactly `vocab_size` pieces. The order of the counts does not matter.

    The first ids are `[PAD] [UNK] [CLS] [SEP] [MASK]`. Then come the characters by frequency, as
    `x`, `##x` or both. At the end are longer pieces, in the order in which byte-pair encoding
    (Sennrich et al. 2016) merges them.

    The counts are those of `count_words` with the same `lower_case` and `strip_accents`.

    Raises:
      DataError: the corpus gives fewer than `vocab_size` pieces, or its characters alone give more.
    """
    pieces = [*SPECIAL_PIECES, *_alphabet(word_counts)]
    least = f"at least {len(pieces)}, the special pieces and the characters of this corpus"
    require(vocab_size >= len(pieces), "model.vocab_size", vocab_size, least, error=DataError)
    pieces = list(dict.fromkeys(pieces + _merged_pieces(word_counts, vocab_size=vocab_size)))
    most = f"at most {len(pieces)}, all the pieces that this corpus gives"
    require(vocab_size <= len(pieces), "model.vocab_size", vocab_size, most, error=DataError)
    return WordPiece(
        pieces=tuple(pieces[:vocab_size]),
        lower_case=lower_case,
        strip_accents=strip_accents,
        max_word_length=max_word_length,
    )


def _alphabet(word_counts: Mapping[str, int]) -> list[str]:
    counts, forms = Counter(), set()
    for word, count in word_counts.items():
        for i, character in enumerate(word):
            counts[character] += count
            forms.add(character if i == 0 else f"##{character}")
    frequent = [character for character in counts if counts[character] >= MIN_CHARACTER_COUNT]
    frequent.sort(key=lambda character: (-counts[character], character))
    both = (form for c in frequent[:MAX_CHARACTERS] for form in (c, f"##{c}"))
    return [form for form in both if form in forms]


def _merged_pieces(word_counts: Mapping[str, int], *, vocab_size: int) -> list[str]:
    """Returns merged pieces in the order of merges: `vocab_size` or more, or all that exist."""
    words = [
        word
        for word in sorted(word_counts)
        if len(word) <= MAX_WORD_LENGTH and not _RESERVED_CHARACTERS.intersection(word)
    ]
    if not words:
        return []
    characters = len(set().union(*words))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"{word}\t{word_counts[word]}" for word in words),
        model_writer=model,
        input_format="tsv",
        model_type="bpe",
        # <unk>, the word mark, every character, and the word mark merged with each character.
        vocab_size=vocab_size + 2 * characters + 2,
        hard_vocab_limit=False,
        character_coverage=1.0,
        max_sentencepiece_length=MAX_WORD_LENGTH + 1,
        normalization_rule_name="identity",
        split_by_unicode_script=False,
        split_by_number=False,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    # The first piece is <unk>. Single characters come last, and belong to the alphabet.
    marked = map(processor.id_to_piece, range(1, processor.get_piece_size()))
    return [
        piece.removeprefix(_WORD_MARK) if piece.startswith(_WORD_MARK) else f"##{piece}"
        for piece in marked
        if len(piece) > 1
    ]
