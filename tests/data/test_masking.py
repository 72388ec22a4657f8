"""Properties of masking: counts and shares of the recipe, and masks that depend only on the row."""

import math
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from bert_jax.data.config import MaskingConfig
from bert_jax.data.masking import BatchForm, draw_uniforms, lay_out, mask_tokens, masked_batch
from bert_jax.data.pairs import Pair


class Vocabulary(NamedTuple):
    """Ids of a tokenizer. [PAD] is not 0, so id 0 can be text."""

    cls_id: int = 1
    sep_id: int = 2
    mask_id: int = 3
    pad_id: int = 4
    vocab_size: int = 50

    @property
    def word_starts(self):
        """Whether each id begins a word; ids from 40 on continue a word."""
        return np.arange(50) < 40


VOCABULARY = Vocabulary()
DEFAULT = MaskingConfig()


def rows_of(pairs):
    """Returns rows with one pair each."""
    return [[pair] for pair in pairs]


def form_of(batch_size, **changes):
    settings = {"sequence_length": 64, "tokenizer": VOCABULARY} | changes
    return BatchForm(batch_size=batch_size, **settings)


def make_batch(pairs, *, addresses=None, seed=0, config=DEFAULT, **changes):
    return masked_batch(
        rows_of(pairs),
        form=form_of(**{"batch_size": len(pairs)} | changes),
        addresses=addresses or [(0, index) for index in range(len(pairs))],
        seed=seed,
        config=config,
    )


def random_pairs(count, *, lowest=5, longest=30):
    rng = np.random.default_rng(0)
    texts = [
        rng.integers(lowest, 50, size=rng.integers(1, longest + 1)).tolist()
        for _ in range(2 * count)
    ]
    return [Pair(texts[2 * i], texts[2 * i + 1], i % 2) for i in range(count)]


def unmasked(batch):
    """Returns the token ids with the original ids at masked positions."""
    token_ids = batch.token_ids.copy()
    rows, slots = np.nonzero(batch.mask_weights)
    token_ids[rows, batch.mask_positions[rows, slots]] = batch.mask_labels[rows, slots]
    return token_ids


def test_layout_of_pairs_single_texts_and_filler_rows():
    layout = lay_out(
        rows_of([Pair([10, 11], [12], 0), Pair([13, 14], [], 0)]),
        form=form_of(3, sequence_length=8),
    )
    assert layout.token_ids.tolist() == [
        [1, 10, 11, 2, 12, 2, 4, 4],
        [1, 13, 14, 2, 4, 4, 4, 4],
        [4] * 8,
    ]
    assert layout.segment_ids.tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0] * 8, [0] * 8]
    assert layout.pack_ids.tolist() == [[1] * 6 + [0] * 2, [1] * 4 + [0] * 4, [0] * 8]
    assert layout.maskable.astype(int).tolist() == [
        [0, 1, 1, 0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert {array.dtype.name for array in layout[:3]} == {"int32"}


def test_layout_of_packed_rows():
    first = [Pair([10], [11], 1), Pair([12], [], 0), Pair([16], [17], 1)]
    rows = [first, [], [Pair([13, 14], [15], 0)]]
    layout = lay_out(rows, form=form_of(3, sequence_length=14, pairs_per_row=3))
    assert layout.token_ids.tolist() == [
        [1, 10, 2, 11, 2, 1, 12, 2, 1, 16, 2, 17, 2, 4],
        [4] * 14,
        [1, 13, 14, 2, 15, 2, *[4] * 8],
    ]
    assert layout.segment_ids.tolist() == [
        [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0],
        [0] * 14,
        [0, 0, 0, 0, 1, 1, *[0] * 8],
    ]
    assert layout.pack_ids.tolist() == [
        [1] * 5 + [2] * 3 + [3] * 5 + [0],
        [0] * 14,
        [1] * 6 + [0] * 8,
    ]
    assert np.flatnonzero(layout.maskable[0]).tolist() == [1, 3, 6, 9, 11]
    assert layout.cls_positions.tolist() == [[0, 5, 8], [0, 0, 0], [0, 0, 0]]
    assert layout.pair_labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert layout.pair_weights.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_a_packed_row_has_predictions_for_all_its_tokens():
    pairs = [Pair([9] * 10, [9] * 7, 0), Pair([9] * 20, [], 0), Pair([9] * 12, [9] * 3, 1)]
    form = form_of(1, pairs_per_row=3)
    batch = masked_batch([pairs], form=form, addresses=[(0, 0)], seed=0, config=MaskingConfig())
    assert batch.padding_mask.sum() == 20 + 22 + 18
    assert batch.mask_weights.sum() == 9  # 60 * 0.15


def test_a_single_text_without_separator_ends_with_its_text():
    batch = make_batch([Pair([10, 11, 12], [], 0)], single_text_separator=False)
    assert unmasked(batch)[0, :5].tolist() == [1, 10, 11, 12, 4]
    assert batch.pack_ids.sum() == 4
    assert batch.pair_weights.tolist() == [[0.0]]


def test_shapes_dtypes_and_filler_rows():
    batch = make_batch(random_pairs(3), batch_size=5, config=MaskingConfig(max_predictions=7))
    widths = {"token_ids": 64, "segment_ids": 64, "pack_ids": 64}
    for name, array in batch._asdict().items():
        width = 7 if name.startswith("mask_") else widths.get(name, 1)
        assert array.shape == (5, width), name
        assert array.dtype == (np.float32 if name.endswith("weights") else np.int32), name
        assert (array[3:] == (VOCABULARY.pad_id if name == "token_ids" else 0)).all(), name
    assert batch.pair_labels[:3, 0].tolist() == [0, 1, 0]
    assert batch.pair_weights[:3, 0].tolist() == [1, 1, 1]
    assert not batch.padding_mask[3:].any()


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_specials_and_padding_are_never_predicted(unit):
    pairs = random_pairs(500)
    batch = make_batch(pairs, config=MaskingConfig(unit=unit, rate=1.0, max_predictions=64))
    layout = lay_out(rows_of(pairs), form=form_of(500))
    predicted = np.zeros_like(layout.maskable)
    rows, slots = np.nonzero(batch.mask_weights)
    predicted[rows, batch.mask_positions[rows, slots]] = True
    # At rate 1, all text and nothing else is predicted.
    assert (predicted == layout.maskable).all()
    assert (unmasked(batch) == layout.token_ids).all()
    assert (batch.token_ids[~layout.maskable] == layout.token_ids[~layout.maskable]).all()


@pytest.mark.parametrize("rate", [0.15, 0.3])
def test_counts_round_half_to_even_at_every_length(rate):
    lengths = range(5, 513)
    pairs = [Pair([9] * (length - 4), [9], 0) for length in lengths]
    config = MaskingConfig(rate=rate, max_predictions=76)
    batch = make_batch(pairs, sequence_length=512, config=config)
    counts = batch.mask_weights.sum(axis=1).astype(int).tolist()
    recipe = [min(76, max(1, round(length * rate)), length - 3) for length in lengths]
    truncated = [min(76, max(1, int(length * rate)), length - 3) for length in lengths]
    assert counts == recipe
    assert counts != truncated


def test_floored_counts_round_down_at_every_length():
    lengths = range(5, 513)
    pairs = [Pair([9] * (length - 4), [9], 0) for length in lengths]
    config = MaskingConfig(count="floored", max_predictions=76)
    batch = make_batch(pairs, sequence_length=512, config=config)
    assert batch.mask_weights.sum(axis=1).astype(int).tolist() == [
        min(76, max(1, int(length * 0.15)), length - 3) for length in lengths
    ]


def test_drawn_counts_are_binomial_over_words_without_special_tokens():
    # A row has 20 words, [CLS] and two [SEP].
    pairs = [Pair([9] * 12, [9] * 8, 0)] * 4000
    config = MaskingConfig(count="drawn", max_predictions=20)
    counts = make_batch(pairs, config=config).mask_weights.sum(axis=1)
    # Over 4,000 rows the mean is 3 and the variance 2.55. Five deviations of their estimates are
    # 0.13 and 0.3 (the fourth central moment is about 20).
    assert abs(counts.mean() - 20 * 0.15) < 0.13
    assert abs(counts.var() - 20 * 0.15 * 0.85) < 0.3
    assert (counts == 0).any()  # probability 0.039 for each row


def test_positions_ascend_and_unused_slots_are_zero():
    batch = make_batch(random_pairs(300))
    counts = batch.mask_weights.sum(axis=1).astype(int)
    assert counts.min() >= 1 and counts.max() < 20
    for row, count in enumerate(counts):
        positions = batch.mask_positions[row]
        assert (np.diff(positions[:count]) > 0).all() and positions[0] > 0
        assert not positions[count:].any()
        assert not batch.mask_labels[row, count:].any()
        assert batch.mask_weights[row].tolist() == [1.0] * count + [0.0] * (20 - count)


def test_max_predictions_may_exceed_the_number_of_words():
    batch = make_batch(
        [Pair([10], [11], 0)],
        sequence_length=6,
        config=MaskingConfig(rate=1.0, max_predictions=10),
    )
    assert batch.mask_positions[0].tolist() == [1, 3] + [0] * 8
    assert batch.mask_labels[0].tolist() == [10, 11] + [0] * 8


def test_token_id_0_counts_as_a_label():
    batch = make_batch([Pair([0] * 10, [0] * 10, 0)])
    assert batch.mask_weights.sum() == 3  # round(23 * 0.15)
    assert (batch.mask_labels == 0).all()


@pytest.mark.parametrize("split", [(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5)])
def test_shares_of_masks_random_words_and_kept_words(split):
    # Labels are 0, which is neither [MASK] nor padding.
    config = MaskingConfig(rate=1.0, max_predictions=64, split=split)
    batch = make_batch([Pair([0] * 40, [0] * 20, 0)] * 1000, config=config)
    rows, slots = np.nonzero(batch.mask_weights)
    shown = batch.token_ids[rows, batch.mask_positions[rows, slots]]
    total = len(shown)
    assert total == 60_000
    # A random word is [MASK] with probability 1 / vocab_size, and likewise the word itself.
    mask_share, word_share, keep_share = split
    expected = {
        "mask": ((shown == VOCABULARY.mask_id).sum(), mask_share + word_share / 50),
        "kept": ((shown == 0).sum(), keep_share + word_share / 50),
        "word": ((shown != 0) & (shown != VOCABULARY.mask_id)).sum(),
    }
    expected["word"] = (expected["word"], word_share * 48 / 50)
    for name, (count, share) in expected.items():
        # Five standard deviations of a binomial: one false alarm in 1.7 million.
        assert abs(count - share * total) <= 5 * math.sqrt(total * share * (1 - share)), name


def test_random_words_are_uniform_over_the_whole_vocabulary():
    config = MaskingConfig(rate=1.0, max_predictions=64, split=(0.0, 1.0, 0.0))
    batch = make_batch([Pair([0] * 40, [0] * 20, 0)] * 1000, config=config)
    rows, slots = np.nonzero(batch.mask_weights)
    shown = batch.token_ids[rows, batch.mask_positions[rows, slots]]
    counts = np.bincount(shown, minlength=50)
    assert len(counts) == 50
    # 60,000 draws from 50 words: chi-squared with 49 degrees of freedom, six deviations.
    chi_squared = ((counts - 1200) ** 2 / 1200).sum()
    assert chi_squared < 49 + 6 * math.sqrt(2 * 49)


def test_words_are_chosen_uniformly_over_the_row():
    batch = make_batch([Pair([9] * 40, [9] * 21, 0)] * 2000)
    positions = batch.mask_positions[batch.mask_weights > 0]
    counts = np.bincount(positions, minlength=64)[[*range(1, 41), *range(42, 63)]]
    expected = 2000 * 10 / 61  # round(64 * 0.15) of 61 words
    assert counts.sum() == 20_000
    assert ((counts - expected) ** 2 / expected).sum() < 60 + 6 * math.sqrt(2 * 60)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_a_mask_depends_only_on_seed_epoch_and_index(unit):
    pairs = random_pairs(64)
    addresses = [(index % 3, 1000 * index) for index in range(64)]
    config = MaskingConfig(unit=unit)
    batch = make_batch(pairs, addresses=addresses, config=config)
    order = np.random.default_rng(1).permutation(64)[:40]
    shuffled = make_batch(
        [pairs[row] for row in order],
        addresses=[addresses[row] for row in order],
        batch_size=50,
        config=config,
    )
    for whole, part in zip(batch, shuffled, strict=True):
        assert np.array_equal(whole[order], part[:40])


@pytest.mark.parametrize("change", ["seed", "epoch", "index"])
def test_another_seed_epoch_or_index_draws_another_mask(change):
    pairs = [Pair([9] * 300, [9] * 200, 0)] * 50
    addresses = [(3, index) for index in range(50)]
    other = [
        (epoch + (change == "epoch"), index + 50 * (change == "index"))
        for epoch, index in addresses
    ]
    settings = {"sequence_length": 512, "config": MaskingConfig(max_predictions=76)}
    first = make_batch(pairs, addresses=addresses, seed=5, **settings)
    second = make_batch(pairs, addresses=other, seed=5 + (change == "seed"), **settings)
    same = (first.mask_positions == second.mask_positions).all(axis=1)
    assert not same.any()


def test_seed_and_epoch_are_not_interchangeable():
    settings = {"batch_size": 1, "sequence_length": 8, "max_predictions": 2}
    first = draw_uniforms([(2, 7)], seed=1, **settings)
    second = draw_uniforms([(1, 7)], seed=2, **settings)
    assert not np.intersect1d(np.concatenate(first, axis=1), np.concatenate(second, axis=1)).size


def test_drawn_numbers_are_pinned():
    # Evaluations are compared across versions. If this test fails, every mask has changed.
    uniforms = draw_uniforms([(1, 2)], seed=3, batch_size=1, sequence_length=3, max_predictions=1)
    assert [round(float(number), 6) for number in uniforms.selection[0]] == [
        0.515221,
        0.985275,
        0.920999,
    ]


def test_masking_does_not_modify_its_input():
    layout = lay_out([[Pair([9] * 20, [9] * 20, 0)]], form=form_of(1))
    before = layout.token_ids.copy()
    uniforms = draw_uniforms([(0, 0)], seed=0, batch_size=1, sequence_length=64, max_predictions=20)
    masked = mask_tokens(
        layout, uniforms=uniforms, mask_id=3, vocab_size=50, config=MaskingConfig()
    )
    assert np.array_equal(layout.token_ids, before)
    assert not np.array_equal(masked.token_ids, before)


def test_preparation_imports_neither_jax_nor_grain():
    code = (
        "import sys; import bert_jax.data.masking, bert_jax.data.preparation.shards; "
        "sys.exit(any(name in sys.modules for name in ('jax', 'grain')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
