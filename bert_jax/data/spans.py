"""Chooses whole words of a row for masking: single words, or spans of several words.

References: the whole-word option of github.com/google-research/bert; SpanBERT, Joshi et al. 2019,
section 3.1.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

_LONGEST = 10
_STOP = 0.2
# The geometric distribution is truncated, not clipped. Its mean is 3.8 words, as in the paper.
_LENGTHS = (1 - (1 - _STOP) ** np.arange(1, _LONGEST + 1)) / (1 - (1 - _STOP) ** _LONGEST)


def span_lengths(numbers: Float[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """Maps uniform numbers in [0, 1) to geometric span lengths of 1 to 10 words."""
    return np.minimum(np.searchsorted(_LENGTHS, numbers, side="right"), _LONGEST - 1) + 1


def choose_spans(
    is_start: Bool[np.ndarray, "batch length"],
    maskable: Bool[np.ndarray, "batch length"],
    *,
    is_candidate: Bool[np.ndarray, "batch length"],
    selection: Float[np.ndarray, "batch length"],
    lengths: Int[np.ndarray, "batch predictions"] | None,
    budgets: Int[np.ndarray, "batch"] | None,
    max_predictions: int,
) -> Int[np.ndarray, "batch length"]:
    """Chooses whole words of each row, up to its budget (a maximum number of tokens).

    The result holds a span number at each chosen token, counted from 1, and 0 at other tokens.
    Spans start at the candidates, in ascending order of `selection`. A span ends early at the end
    of its text, or before a word with more tokens than are left of the budget. A span skips words
    that an earlier span has chosen, and starts at no such word. Rows are independent of each other.

    Args:
      is_start: True at the first token of each word of the text.
      maskable: True at every token of the text.
      is_candidate: True at those first tokens where a span may start.
      selection: uniform numbers.
      lengths: number of words in each span of a row; None chooses single words.
      budgets: maximum number of chosen tokens in each row; None means `max_predictions`. If the
        shortest word of a row has more tokens, the row's maximum is the length of this word.
      max_predictions: maximum number of chosen tokens in any row, and of tokens in a chosen word.
    """
    count = int(is_start.sum(axis=1).max(initial=0))
    if not count:
        return np.zeros(is_start.shape, np.int32)
    batch = np.arange(len(is_start))
    word, size, text = _words(is_start, maskable, count)
    order = np.argsort(np.where(is_candidate, selection, 2.0), axis=1)
    order = np.take_along_axis(word, order[:, :count], axis=1)
    candidates = is_candidate.sum(axis=1)
    left = np.full(len(batch), max_predictions)
    if budgets is not None:
        shortest = np.where(size, size, max_predictions).min(axis=1)
        left = np.maximum(budgets, np.minimum(shortest, max_predictions))
    if lengths is None:
        lengths = np.ones((len(batch), max_predictions), int)
    spans = np.zeros(len(batch), np.int32)
    span_of_word = np.zeros(size.shape, np.int32)
    reach = np.arange(lengths.max(initial=1))
    for turn in range(count):
        rows = batch[(left > 0) & (candidates > turn)]
        if not len(rows):
            break
        row, first = rows[:, None], order[rows, turn, None]
        window = np.minimum(first + reach, count - 1)  # [rows, reach]
        free = span_of_word[row, window] == 0
        free &= (first + reach < count) & (reach < lengths[rows, spans[rows]][:, None])
        free &= (text[row, window] == text[row, first]) & free[:, :1]
        tokens = np.where(free, size[row, window], 0)
        taken = free & (tokens.cumsum(axis=1) <= left[row])
        left[rows] -= (tokens * taken).sum(axis=1)
        spans[rows] += taken[:, 0]
        at, offset = np.nonzero(taken)
        span_of_word[rows[at], window[at, offset]] = spans[rows[at]]
    return np.where(maskable, np.take_along_axis(span_of_word, word, axis=1), 0)


def _words(
    is_start: Bool[np.ndarray, "batch length"],
    maskable: Bool[np.ndarray, "batch length"],
    count: int,
) -> tuple[
    Int[np.ndarray, "batch length"], Int[np.ndarray, "batch words"], Int[np.ndarray, "batch words"]
]:
    """Returns three arrays: word number by position, token count by word, text number by word.

    `count` is the largest number of words in a row. If a row has fewer words, its last entries have
    token count 0 and text number -1. In each row, the numbers of words and texts start again.
    """
    word = np.maximum(np.cumsum(is_start, axis=1) - 1, 0)
    flat = (word + np.arange(len(word))[:, None] * count)[maskable]
    size = np.bincount(flat, minlength=len(word) * count).reshape(-1, count)
    rows, starts = np.nonzero(is_start)
    text = np.full(size.shape, -1)
    text[rows, word[rows, starts]] = np.cumsum(~maskable, axis=1)[rows, starts]
    return word, size, text
