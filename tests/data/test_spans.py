"""Words are masked whole, span lengths are geometric, and both follow the published recipes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from bert_jax.data.config import MaskingConfig
from bert_jax.data.masking import BatchForm, RowUniforms, draw_uniforms, lay_out, mask_tokens
from bert_jax.data.pairs import Pair
from bert_jax.data.spans import span_lengths
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece

ROWS, LENGTH, VOCAB_SIZE = 400, 128, 100
FIRST_CONTINUATION = 60
"""The first id of the `##` pieces, so 40 % of uniformly drawn ids continue a word."""
SPECIALS = SimpleNamespace(cls_id=1, sep_id=2, pad_id=0)
MASK_ID = 3


def random_pairs(count, *, rng, longest=60, vocab_size=VOCAB_SIZE):
    def text():
        return rng.integers(4, vocab_size, size=rng.integers(1, longest + 1)).tolist()

    return [Pair(text(), text(), 0) for _ in range(count)]


def layout_of(pairs):
    form = BatchForm(batch_size=len(pairs), sequence_length=LENGTH, tokenizer=SPECIALS)
    return lay_out([[pair] for pair in pairs], form=form)


def uniforms_of(layout, config, seed=0):
    rows = len(layout.token_ids)
    return draw_uniforms(
        [(0, index) for index in range(rows)],
        seed=seed,
        batch_size=rows,
        sequence_length=LENGTH,
        max_predictions=config.max_predictions,
    )


def mask(layout, config, uniforms=None):
    return mask_tokens(
        layout,
        uniforms=uniforms or uniforms_of(layout, config),
        mask_id=MASK_ID,
        vocab_size=VOCAB_SIZE,
        config=config,
        word_starts=np.arange(VOCAB_SIZE) < FIRST_CONTINUATION,
    )


def predicted(masked):
    """Returns the set of predicted positions of each row."""
    return [
        set(positions[weights > 0].tolist())
        for positions, weights in zip(masked.mask_positions, masked.mask_weights, strict=True)
    ]


def words_of(layout, row):
    """Returns the positions of each word of A and of B, straight from the definition of a word."""
    texts = []
    for position, is_text in enumerate(layout.maskable[row]):
        if not is_text:
            texts.append([])
        elif layout.token_ids[row, position] < FIRST_CONTINUATION or not texts[-1]:
            texts[-1].append([position])
        else:
            texts[-1][-1].append(position)
    return [text for text in texts if text]


@pytest.fixture(scope="module")
def layout():
    return layout_of(random_pairs(ROWS, rng=np.random.default_rng(0)))


def budgets(layout, config):
    return [
        min(config.max_predictions, max(1, round(int(n) * config.rate)))
        for n in (layout.pack_ids > 0).sum(axis=1)
    ]


def test_words_are_chosen_as_in_googles_code(layout):
    """Google's code takes words in random order and skips a word that would exceed the number."""
    config = MaskingConfig(unit="word", max_predictions=20)
    uniforms = uniforms_of(layout, config)
    found = predicted(mask(layout, config, uniforms))
    for row, budget in enumerate(budgets(layout, config)):
        words = [word for text in words_of(layout, row) for word in text]
        # If no word fits, our code masks the shortest word, and Google's code masks none.
        budget = max(budget, min(map(len, words)))
        chosen = []
        for word in sorted(words, key=lambda word: uniforms.selection[row, word[0]]):
            if len(chosen) + len(word) <= budget:
                chosen += word
        assert found[row] == set(chosen) != set()


@pytest.mark.parametrize(
    ("unit", "count"),
    [("word", "rounded"), ("word", "drawn"), ("span", "rounded"), ("span", "floored")],
)
@pytest.mark.parametrize("max_predictions", [8, 20, 100])
def test_words_are_masked_whole_and_not_too_many(layout, unit, max_predictions, count):
    config = MaskingConfig(unit=unit, count=count, max_predictions=max_predictions)
    for row, positions in enumerate(predicted(mask(layout, config))):
        words = [word for text in words_of(layout, row) for word in text]
        assert all(positions.issuperset(word) or positions.isdisjoint(word) for word in words)
        assert len(positions) <= max_predictions
        if count == "rounded":
            shortest = min(map(len, words))
            assert len(positions) <= max(budgets(layout, config)[row], shortest)
            assert positions or shortest > max_predictions


def test_a_continuation_piece_at_the_start_of_b_begins_a_word():
    pairs = [Pair([10, 70], [70, 71, 11], 0)] * 50
    config = MaskingConfig(unit="word", rate=0.25, max_predictions=20)  # round(8 * 0.25) = 2
    found = predicted(mask(layout_of(pairs), config))
    # The word of A, the long word of B, or the short word of B; no second word fits.
    assert set(map(frozenset, found)) == {frozenset({1, 2}), frozenset({4, 5}), frozenset({6})}


@pytest.mark.parametrize("unit", ["word", "span"])
def test_if_all_words_are_too_long_the_shortest_is_masked(unit):
    pairs = [Pair([10, 70, 70], [10, 70], 0)] * 50  # 8 tokens: round(8 * 0.15) = 1
    found = predicted(mask(layout_of(pairs), MaskingConfig(unit=unit, max_predictions=20)))
    assert set(map(frozenset, found)) == {frozenset({5, 6})}


@pytest.mark.parametrize(
    ("unit", "count"),
    [
        *[("word", "rounded"), ("word", "floored"), ("word", "drawn")],
        *[("span", "rounded"), ("span", "floored")],
    ],
)
def test_the_choice_in_a_row_does_not_depend_on_other_rows(unit, count):
    """This includes rows without predictions, whose words all exceed `max_predictions`."""
    rng = np.random.default_rng(2)

    def text(lengths):
        return [i for length in lengths for i in [10] + [70] * (length - 1)]

    pairs = []
    for _ in range(60):
        longest = rng.choice([1, 3, 8, 20])
        shortest = rng.integers(1, longest, endpoint=True)
        a, b = rng.integers(shortest, longest, size=(2, rng.integers(1, 4)), endpoint=True)
        pairs.append(Pair(text(a), text(b), 0))
    config = MaskingConfig(unit=unit, count=count, rate=0.3, max_predictions=5)
    layout = layout_of(pairs)
    uniforms = uniforms_of(layout, config)
    together = mask(layout, config, uniforms)
    hopeless = 0
    for row, pair in enumerate(pairs):
        alone = mask(
            layout_of([pair]), config, RowUniforms(*(one[row : row + 1] for one in uniforms))
        )
        for one, all_of_them in zip(alone, together, strict=True):
            assert (one[0] == all_of_them[row]).all()
        words = [word for text in words_of(layout, row) for word in text]
        if min(map(len, words)) > config.max_predictions:
            assert not together.mask_weights[row].any()
            hopeless += 1
        elif count != "drawn":
            assert together.mask_weights[row].any()
    assert 10 < hopeless < 50


def test_drawn_words_are_binomial():
    # A row has 30 words of two pieces.
    layout = layout_of([Pair([10, 70] * 20, [10, 70] * 10, 0)] * 4000)
    config = MaskingConfig(unit="word", count="drawn", rate=0.15, max_predictions=60)
    counts = mask(layout, config).mask_weights.sum(axis=1) / 2
    # Five deviations of the mean of 4,000 binomials with variance 30 * 0.15 * 0.85 = 3.8.
    assert abs(counts.mean() - 30 * 0.15) < 5 * math.sqrt(3.8 / 4000)
    # The variance of a sample variance is about 2 * 3.8**2 / 4000.
    assert abs(counts.var() - 3.825) < 5 * 3.825 * math.sqrt(2 / 4000)


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_chosen_almost_uniformly_over_a_text(unit):
    # A row has 110 words of one piece; 17 of 112 tokens are predicted.
    layout = layout_of([Pair([10] * 110, [], 0)] * 3000)
    config = MaskingConfig(unit=unit, max_predictions=20)
    masked = mask(layout, config)
    assert (masked.mask_weights.sum(axis=1) == 17).all()
    counts = np.bincount(masked.mask_positions[masked.mask_weights > 0], minlength=LENGTH)
    # A span has up to 10 words, so fewer spans can cover the first words. All later words have
    # the same share.
    inner = counts[12:111] if unit == "span" else counts[1:111]
    share = inner.mean() / 3000
    assert abs(share - 17 / 110) < 0.01
    # Five deviations of a binomial at each position; one in 1.7 million exceeds them.
    assert abs(inner - 3000 * share).max() < 5 * math.sqrt(3000 * share * (1 - share))


def test_replacements_are_drawn_for_each_token_of_a_word_but_once_for_a_span():
    layout = layout_of([Pair([10, 70, 70] * 20, [10, 70] * 20, 0)] * 3000)
    kinds = {}
    for unit in ("word", "span"):
        config = MaskingConfig(unit=unit, rate=0.05, max_predictions=10, split=(0.5, 0.0, 0.5))
        masked = mask(layout, config)
        rows, slots = np.nonzero(masked.mask_weights)
        positions = masked.mask_positions[rows, slots]
        is_mask = masked.token_ids[rows, positions] == MASK_ID
        # Compares adjacent tokens of one word (3 or 2 pieces), which are in the same span.
        neighbours = (rows[1:] == rows[:-1]) & (positions[1:] == positions[:-1] + 1)
        within = layout.token_ids[rows[1:], positions[1:]] == 70
        agree = (is_mask[1:] == is_mask[:-1])[neighbours & within]
        kinds[unit] = agree.mean()
        assert len(agree) > 5000
        # There are at most 3000 * 10 tokens in groups of up to 10. The deviation of their share is
        # at most that of 3000 coin flips.
        assert abs(is_mask.mean() - 0.5) < 5 * 0.5 / math.sqrt(3000)
    assert kinds["span"] == 1.0
    assert abs(kinds["word"] - 0.5) < 5 * 0.5 / math.sqrt(5000)


def test_span_lengths_are_geometric_from_1_to_10():
    numbers = np.random.default_rng(0).random(200_000)
    counts = np.bincount(span_lengths(numbers), minlength=11)
    assert counts[0] == 0 and len(counts) == 11
    shares = 0.2 * 0.8 ** np.arange(10)
    expected = len(numbers) * shares / shares.sum()
    # Chi-squared with 9 degrees of freedom, six deviations.
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 9 + 6 * math.sqrt(18)
    assert abs(expected @ np.arange(1, 11) / len(numbers) - 3.8) < 0.01, "the paper's mean"
    assert span_lengths(np.array([0.0, 1 - 2.0**-53])).tolist() == [1, 10]


def test_spans_have_the_drawn_number_of_whole_words():
    rng = np.random.default_rng(1)
    layout = layout_of(random_pairs(ROWS, rng=rng))
    config = MaskingConfig(unit="span", rate=0.3, max_predictions=38)
    uniforms = uniforms_of(layout, config)
    found = predicted(mask(layout, config, uniforms))
    lengths = span_lengths(uniforms.span)
    uncut = 0
    for row, budget in enumerate(budgets(layout, config)):
        texts = words_of(layout, row)
        budget = max(budget, min(len(word) for text in texts for word in text))
        places = {text[i][0]: (text, i) for text in texts for i in range(len(text))}
        chosen, spans = set(), 0
        # The definition: spans are chosen in the order of the numbers drawn for their first words.
        for start in sorted(places, key=lambda position: uniforms.selection[row, position]):
            text, i = places[start]
            if chosen.issuperset(text[i]):
                continue
            span = text[i : i + lengths[row, spans]] if len(chosen) < budget else []
            taken = 0
            for word in span:
                if len(chosen | set(word)) > budget:
                    break
                chosen |= set(word)
                taken += 1
            spans += taken > 0
            uncut += taken == len(span) > 1
        assert found[row] == chosen
    assert uncut > ROWS, "most spans should have several words and not be truncated"


def test_word_starts_of_wordpiece():
    tokenizer = WordPiece(pieces=(*SPECIAL_PIECES, "a", "##a", "#", "##", "."), lower_case=True)
    assert tokenizer.word_starts.tolist() == [True] * 6 + [False, True, False, True]
    with pytest.raises(ValueError, match="read-only"):
        tokenizer.word_starts[0] = False
