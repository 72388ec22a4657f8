"""Converts pairs to rows of token ids and masks them, a whole batch at a time in NumPy.

The random numbers of a row are a pure function of (seed, epoch, record index). A row therefore has
the same mask in any batch, in any order and on any number of hosts.

References: Devlin et al. 2018, section 3.1; Salmon et al. 2011 (the Philox generator).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bert_jax.data.batch import Batch
from bert_jax.data.config import MaskingConfig
from bert_jax.data.pairs import Pair
from bert_jax.data.spans import choose_spans, span_lengths
from bert_jax.data.tokenizers.files import Tokenizer


@dataclass(frozen=True, kw_only=True)
class BatchForm:
    """Settings that say how rows of pairs become arrays of token ids."""

    batch_size: int
    """Number of rows, filler rows included."""
    sequence_length: int
    """Number of tokens in a row, padding included."""
    tokenizer: Tokenizer
    """The tokenizer that made the ids. It gives the ids of [CLS], [SEP], [MASK] and [PAD]."""
    single_text_separator: bool = True
    """Whether a single text ends in [SEP]."""
    pairs_per_row: int = 1
    """Maximum number of pairs in one row."""

    def tokens(self, row: Sequence[Pair]) -> int:
        """Returns the number of tokens of a row, with [CLS] and [SEP]."""
        ends = int(self.single_text_separator)
        return sum(1 + len(a) + (len(b) + 2 if len(b) else ends) for a, b, _ in row)


class Layout(NamedTuple):
    """Unmasked rows of a batch."""

    token_ids: Int[np.ndarray, "batch length"]
    segment_ids: Int[np.ndarray, "batch length"]
    pack_ids: Int[np.ndarray, "batch length"]
    maskable: Bool[np.ndarray, "batch length"]
    """True at tokens of the text, False at [CLS], [SEP] and padding."""
    cls_positions: Int[np.ndarray, "batch pairs"]
    pair_labels: Int[np.ndarray, "batch pairs"]
    pair_weights: Float[np.ndarray, "batch pairs"]


class RowUniforms(NamedTuple):
    """Uniform numbers in [0, 1): one for each position and three for each prediction."""

    selection: Float[np.ndarray, "batch length"]
    replacement: Float[np.ndarray, "batch predictions"]
    word: Float[np.ndarray, "batch predictions"]
    span: Float[np.ndarray, "batch predictions"]


def masked_batch(
    rows: Sequence[Sequence[Pair]],
    *,
    form: BatchForm,
    addresses: Sequence[tuple[int, int]],
    seed: int,
    config: MaskingConfig,
) -> Batch:
    """Lays out and masks rows of pairs; filler rows of weight 0 complete the batch.

    Args:
      addresses: (epoch, record index) of each row.
    """
    layout = lay_out(rows, form=form)
    tokenizer = form.tokenizer
    uniforms = draw_uniforms(
        [(0, index) for _, index in addresses] if config.static else addresses,
        seed=seed,
        batch_size=form.batch_size,
        sequence_length=form.sequence_length,
        max_predictions=config.max_predictions,
    )
    return mask_tokens(
        layout,
        uniforms=uniforms,
        mask_id=tokenizer.mask_id,
        vocab_size=tokenizer.vocab_size,
        config=config,
        word_starts=None if config.unit == "token" else tokenizer.word_starts,
    )


def lay_out(rows: Sequence[Sequence[Pair]], *, form: BatchForm) -> Layout:
    """Lays out each pair as [CLS] A [SEP] B [SEP], one after another within its row.

    A single text becomes [CLS] A [SEP], or [CLS] A without the separator. It has no label, so its
    pair weight is 0.
    """
    batch_size, sequence_length = form.batch_size, form.sequence_length
    cls_id, sep_id = form.tokenizer.cls_id, form.tokenizer.sep_id
    token_ids = np.full((batch_size, sequence_length), form.tokenizer.pad_id, np.int32)
    segment_ids = np.zeros((batch_size, sequence_length), np.int32)
    pack_ids = np.zeros((batch_size, sequence_length), np.int32)
    maskable = np.zeros((batch_size, sequence_length), bool)
    cls_positions = np.zeros((batch_size, form.pairs_per_row), np.int32)
    pair_labels = np.zeros((batch_size, form.pairs_per_row), np.int32)
    pair_weights = np.zeros((batch_size, form.pairs_per_row), np.float32)
    for row, pairs in enumerate(rows):
        ids, text = token_ids[row], maskable[row]
        start = 0
        for slot, (a, b, label) in enumerate(pairs):
            end = start + 1 + len(a)
            ids[start] = cls_id
            ids[start + 1 : end] = a
            text[start + 1 : end] = True
            if len(b) or form.single_text_separator:
                ids[end] = sep_id
                end += 1
            if len(b):
                b_start, end = end, end + len(b)
                ids[b_start:end] = b
                text[b_start:end] = True
                ids[end] = sep_id
                end += 1
                segment_ids[row, b_start:end] = 1
            pack_ids[row, start:end] = slot + 1
            cls_positions[row, slot] = start
            pair_labels[row, slot] = label
            pair_weights[row, slot] = len(b) > 0
            start = end
    return Layout(
        token_ids, segment_ids, pack_ids, maskable, cls_positions, pair_labels, pair_weights
    )


def draw_uniforms(
    addresses: Sequence[tuple[int, int]],
    *,
    seed: int,
    batch_size: int,
    sequence_length: int,
    max_predictions: int,
) -> RowUniforms:
    """Draws the uniform numbers of each row from its (epoch, record index); filler rows get 0."""
    bits = np.zeros((batch_size, sequence_length + 3 * max_predictions), np.uint64)
    # Raw bits are the same in every NumPy version; the numbers of a Generator are not. All rows use
    # one Philox object, because making an object takes four times as long as drawing for a row.
    philox = np.random.Philox(key=0)
    start = philox.state
    for row, (epoch, index) in enumerate(addresses):
        start["state"]["key"][:] = _epoch_key(seed, epoch), index
        philox.state = start
        bits[row] = philox.random_raw(bits.shape[1])
    uniforms = (bits >> np.uint64(11)) * 2.0**-53
    ends = sequence_length + max_predictions * np.arange(3)
    return RowUniforms(*np.split(uniforms, ends, axis=1))


@lru_cache(maxsize=64)
def _epoch_key(seed: int, epoch: int) -> int:
    """Hashes seed and epoch to 64 bits: seed 1 in epoch 2 has other bits than seed 2 in epoch 1."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def mask_tokens(
    layout: Layout,
    *,
    uniforms: RowUniforms,
    mask_id: int,
    vocab_size: int,
    config: MaskingConfig,
    word_starts: Bool[np.ndarray, "vocab"] | None = None,
) -> Batch:
    """Chooses tokens to predict and replaces each by [MASK], by a random piece or by itself.

    `config.count` says how the number of predictions in a row is computed. The number is at most
    `max_predictions`. A random piece may be any piece, special pieces included. Whole words and
    spans need `word_starts`, True for the ids that start a word. A word is skipped if it has more
    tokens than may still be predicted in the row. If `config.count` is 'rounded' or 'floored', the
    number is raised, up to `max_predictions` at most, until the row's shortest word fits.
    """
    token_ids = layout.token_ids
    if word_starts is None:
        positions, replacement = _choose_tokens(layout, uniforms, config), uniforms.replacement
    else:
        positions, replacement = _choose_words(layout, uniforms, config, word_starts)
    is_prediction = positions < token_ids.shape[1]
    positions[~is_prediction] = 0

    labels = np.take_along_axis(token_ids, positions, axis=1)
    words = (uniforms.word * vocab_size).astype(np.int32)
    mask_share, word_share, _ = config.split
    becomes_mask = replacement < mask_share
    becomes_word = ~becomes_mask & (replacement < mask_share + word_share)
    replaced = np.where(becomes_mask, mask_id, np.where(becomes_word, words, labels))

    masked_ids = token_ids.copy()
    rows, slots = np.nonzero(is_prediction)
    masked_ids[rows, positions[rows, slots]] = replaced[rows, slots]
    return Batch(
        token_ids=masked_ids,
        mask_positions=positions,
        mask_labels=np.where(is_prediction, labels, 0).astype(np.int32),
        mask_weights=is_prediction.astype(np.float32),
        segment_ids=layout.segment_ids,
        pack_ids=layout.pack_ids,
        cls_positions=layout.cls_positions,
        pair_labels=layout.pair_labels,
        pair_weights=layout.pair_weights,
    )


def _budgets(layout: Layout, config: MaskingConfig) -> Int[np.ndarray, "batch"]:
    """Returns each row's number of predictions: `config.rate` of its tokens, rounded or floored."""
    shares = layout.pack_ids.astype(bool).sum(axis=1) * config.rate
    counts = np.maximum(np.rint(shares) if config.count == "rounded" else shares // 1, 1)
    return np.minimum(counts, config.max_predictions).astype(int)


def _choose_tokens(
    layout: Layout, uniforms: RowUniforms, config: MaskingConfig
) -> Int[np.ndarray, "batch predictions"]:
    """Returns chosen positions in ascending order. Unused slots hold `sequence_length`."""
    maskable = layout.maskable
    batch_size, sequence_length = maskable.shape
    if config.count == "drawn":
        counts = (maskable & (uniforms.selection < config.rate)).sum(axis=1)
        counts = np.minimum(counts, config.max_predictions)
    else:
        counts = np.minimum(_budgets(layout, config), maskable.sum(axis=1))
    # The tokens with the smallest numbers are chosen. Slots without a prediction sort to the end.
    order = np.argsort(np.where(maskable, uniforms.selection, 2.0), axis=1)
    order = order[:, : config.max_predictions]
    chosen = np.arange(order.shape[1]) < counts[:, None]
    positions = np.full((batch_size, config.max_predictions), sequence_length, np.int32)
    positions[:, : order.shape[1]] = np.where(chosen, order, sequence_length)
    positions.sort(axis=1)
    return positions


def _choose_words(
    layout: Layout,
    uniforms: RowUniforms,
    config: MaskingConfig,
    word_starts: Bool[np.ndarray, "vocab"],
) -> tuple[Int[np.ndarray, "batch predictions"], Float[np.ndarray, "batch predictions"]]:
    """Returns positions as `_choose_tokens` does, and the uniform number for each replacement."""
    maskable = layout.maskable
    is_start = word_starts[layout.token_ids]
    is_start[:, 1:] |= ~maskable[:, :-1]  # a word whose front was cut off
    is_start &= maskable
    drawn = config.count == "drawn"
    spans = choose_spans(
        is_start,
        maskable,
        is_candidate=is_start & (uniforms.selection < config.rate) if drawn else is_start,
        selection=uniforms.selection,
        lengths=span_lengths(uniforms.span) if config.unit == "span" else None,
        budgets=None if drawn else _budgets(layout, config),
        max_predictions=config.max_predictions,
    )
    rows, columns = np.nonzero(spans)
    slots = (np.cumsum(spans > 0, axis=1) - 1)[rows, columns]
    positions = np.full((len(spans), config.max_predictions), spans.shape[1], np.int32)
    positions[rows, slots] = columns
    if config.unit == "word":
        return positions, uniforms.replacement
    replacement = uniforms.replacement.copy()
    replacement[rows, slots] = replacement[rows, spans[rows, columns] - 1]
    return positions, replacement
