"""Pairs -> masked batches, in NumPy, a whole batch at a time.

Random numbers are addressed, not carried: a row's are a pure function of (seed, epoch, record
index), so its mask is the same in any batch, in any order and on any number of hosts.

References: Devlin et al. 2018, section 3.1; Salmon et al. 2011 (the Philox generator).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bert_jax.data.batch import Batch
from bert_jax.data.config import MaskingConfig
from bert_jax.data.pairs import Pair
from bert_jax.data.tokenizers import Tokenizer


class Layout(NamedTuple):
    """Unmasked rows of a batch."""

    token_ids: Int[np.ndarray, "batch length"]
    segment_ids: Int[np.ndarray, "batch length"]
    pack_ids: Int[np.ndarray, "batch length"]
    maskable: Bool[np.ndarray, "batch length"]
    """True at text: everything but the layout's [CLS] and [SEP] and padding."""


class MaskedTokens(NamedTuple):
    """Fields of a `Batch` that depend on the mask."""

    token_ids: Int[np.ndarray, "batch length"]
    mask_positions: Int[np.ndarray, "batch predictions"]
    mask_labels: Int[np.ndarray, "batch predictions"]
    mask_weights: Float[np.ndarray, "batch predictions"]


class RowUniforms(NamedTuple):
    """Uniform numbers in [0, 1): one a position and two a prediction."""

    selection: Float[np.ndarray, "batch length"]
    replacement: Float[np.ndarray, "batch predictions"]
    word: Float[np.ndarray, "batch predictions"]


def masked_batch(
    pairs: Sequence[Pair],
    *,
    addresses: Sequence[tuple[int, int]],
    seed: int,
    batch_size: int,
    sequence_length: int,
    single_text_separator: bool,
    tokenizer: Tokenizer,
    config: MaskingConfig,
) -> Batch:
    """Lays out and masks pairs; rows after the last pair are fillers of weight 0.

    `addresses` holds each pair's (epoch, record index).
    """
    layout = lay_out(
        pairs,
        batch_size=batch_size,
        sequence_length=sequence_length,
        single_text_separator=single_text_separator,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
        pad_id=tokenizer.pad_id,
    )
    uniforms = draw_uniforms(
        addresses,
        seed=seed,
        batch_size=batch_size,
        sequence_length=sequence_length,
        max_predictions=config.max_predictions,
    )
    masked = mask_tokens(
        layout,
        uniforms=uniforms,
        mask_id=tokenizer.mask_id,
        vocab_size=tokenizer.vocab_size,
        config=config,
    )
    pair_labels = np.zeros((batch_size, 1), np.int32)
    pair_weights = np.zeros((batch_size, 1), np.float32)
    for row, pair in enumerate(pairs):
        pair_labels[row] = pair.label
        pair_weights[row] = len(pair.b) > 0
    return Batch(
        **masked._asdict(),
        segment_ids=layout.segment_ids,
        pack_ids=layout.pack_ids,
        cls_positions=np.zeros((batch_size, 1), np.int32),
        pair_labels=pair_labels,
        pair_weights=pair_weights,
    )


def lay_out(
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    sequence_length: int,
    single_text_separator: bool,
    cls_id: int,
    sep_id: int,
    pad_id: int,
) -> Layout:
    """Rows [CLS] A [SEP] B [SEP]; a single text is [CLS] A [SEP], or [CLS] A without separator."""
    token_ids = np.full((batch_size, sequence_length), pad_id, np.int32)
    maskable = np.zeros((batch_size, sequence_length), bool)
    first_lengths = np.zeros((batch_size, 1), np.int32)
    lengths = np.zeros((batch_size, 1), np.int32)
    for row, (a, b, _) in enumerate(pairs):
        ids, text = token_ids[row], maskable[row]
        end = 1 + len(a)
        ids[0] = cls_id
        ids[1:end] = a
        text[1:end] = True
        if len(b) or single_text_separator:
            ids[end] = sep_id
            end += 1
        first_lengths[row] = end
        if len(b):
            start, end = end, end + len(b)
            ids[start:end] = b
            text[start:end] = True
            ids[end] = sep_id
            end += 1
        lengths[row] = end
    columns = np.arange(sequence_length, dtype=np.int32)
    pack_ids = (columns < lengths).astype(np.int32)
    segment_ids = ((columns >= first_lengths) & (columns < lengths)).astype(np.int32)
    return Layout(token_ids, segment_ids, pack_ids, maskable)


def draw_uniforms(
    addresses: Sequence[tuple[int, int]],
    *,
    seed: int,
    batch_size: int,
    sequence_length: int,
    max_predictions: int,
) -> RowUniforms:
    """The uniform numbers of the rows at `addresses`, (epoch, record index); 0 in filler rows."""
    bits = np.zeros((batch_size, sequence_length + 2 * max_predictions), np.uint64)
    for row, (epoch, index) in enumerate(addresses):
        # Raw bits and not a Generator: NumPy keeps only the former the same in every version.
        generator = np.random.Philox(key=(index << 64) | _epoch_key(seed, epoch))
        bits[row] = generator.random_raw(bits.shape[1])
    uniforms = (bits >> np.uint64(11)) * 2.0**-53
    selection, replacement, word = np.split(
        uniforms, [sequence_length, sequence_length + max_predictions], axis=1
    )
    return RowUniforms(selection, replacement, word)


@lru_cache(maxsize=64)
def _epoch_key(seed: int, epoch: int) -> int:
    """64 bits mixed from seed and epoch, so that (1, 2) and (2, 1) share nothing."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def mask_tokens(
    layout: Layout,
    *,
    uniforms: RowUniforms,
    mask_id: int,
    vocab_size: int,
    config: MaskingConfig,
) -> MaskedTokens:
    """Chooses words to predict and replaces them with [MASK], a random word or themselves.

    `config.count` says how many of a row's tokens, [CLS] and [SEP] counted, are predicted; at most
    `max_predictions`. A random word is any of the vocabulary, specials included.
    """
    token_ids, maskable = layout.token_ids, layout.maskable
    batch_size, sequence_length = token_ids.shape
    if config.count == "drawn":
        counts = (maskable & (uniforms.selection < config.rate)).sum(axis=1)
    else:
        shares = layout.pack_ids.astype(bool).sum(axis=1) * config.rate
        counts = np.maximum(np.rint(shares) if config.count == "rounded" else shares // 1, 1)
    counts = np.minimum(np.minimum(counts, config.max_predictions), maskable.sum(axis=1))

    # The words with the smallest numbers; one past the end marks slots without a prediction and
    # sorts behind all others.
    order = np.argsort(np.where(maskable, uniforms.selection, 2.0), axis=1)
    order = order[:, : config.max_predictions]
    chosen = np.arange(order.shape[1]) < counts[:, None]
    positions = np.full((batch_size, config.max_predictions), sequence_length, np.int32)
    positions[:, : order.shape[1]] = np.where(chosen, order, sequence_length)
    positions.sort(axis=1)
    is_prediction = positions < sequence_length
    positions[~is_prediction] = 0

    labels = np.take_along_axis(token_ids, positions, axis=1)
    words = (uniforms.word * vocab_size).astype(np.int32)
    mask_share, word_share, _ = config.split
    becomes_mask = uniforms.replacement < mask_share
    becomes_word = ~becomes_mask & (uniforms.replacement < mask_share + word_share)
    replaced = np.where(becomes_mask, mask_id, np.where(becomes_word, words, labels))

    masked_ids = token_ids.copy()
    rows, slots = np.nonzero(is_prediction)
    masked_ids[rows, positions[rows, slots]] = replaced[rows, slots]
    return MaskedTokens(
        token_ids=masked_ids,
        mask_positions=positions,
        mask_labels=np.where(is_prediction, labels, 0).astype(np.int32),
        mask_weights=is_prediction.astype(np.float32),
    )
