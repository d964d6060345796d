"""SpanBERT's masks: whole words in spans of geometric length until a budget is spent, for all rows at once."""

from itertools import count

import numpy as np

from hfcourse.collators.randomness import uniform

DRAWS = 8  # first stream of random numbers; each block of rounds has its own
ROUNDS = 32


def span_length_probabilities(geometric_p: float = 0.2, max_span_length: int = 10) -> np.ndarray:
    """P(l) = p(1-p)^(l-1) / Σ, l = 1 … max: truncated and *renormalised*; the mean is 3.797 at 0.2 and 10.

    (Clipping a geometric number, min(g, 10), is a common other law: its mean is 4.463.)
    """
    weights = geometric_p * (1 - geometric_p) ** np.arange(max_span_length)
    return weights / weights.sum()


def span_masks(
    keys: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    budgets: np.ndarray,
    geometric_p: float = 0.2,
    max_span_length: int = 10,
) -> np.ndarray:
    """Mask exactly `budgets` tokens of each row in spans (https://huggingface.co/papers/1907.10529, and its code).

    Again and again, until the budget is spent: draw a length in *words* from [`span_length_probabilities`] and an
    anchor token uniformly; begin anew if it is masked already; mask from the beginning of its word, word by word, and
    stop within a word where the budget ends. Spans may overlap or touch; they are then one.

    Args:
        keys: (B,), the rows' keys.
        starts: (B, L) bool, where words begin. lengths: (B,), maskable tokens, which lie first in each row.
        budgets: (B,), at most `lengths`.

    Returns:
        (B, L) bool.
    """
    rows, width = starts.shape
    starts = starts & (np.arange(width) < lengths[:, None])
    word_of = starts.cumsum(1)
    # Place of the first token of word w, and of the end of the last one, as columns of one table.
    begins = np.tile(lengths[:, None], (1, width + max_span_length + 1))
    at = np.nonzero(starts)
    begins[at[0], word_of[at] - 1] = at[1]

    masked, left = np.zeros((rows, width + 1), dtype=bool), budgets.copy()
    thresholds = span_length_probabilities(geometric_p, max_span_length).cumsum()[:-1]
    for draw in count():
        active = np.flatnonzero(left > 0)
        if not len(active):
            return masked[:, :width]
        if draw % ROUNDS == 0:
            block = uniform(keys, 2 * ROUNDS, DRAWS + draw // ROUNDS).reshape(rows, ROUNDS, 2)
        u = block[active, draw % ROUNDS]
        anchor = (u[:, 0] * lengths[active]).astype(np.int64)
        fresh = ~masked[active, anchor]
        active, anchor = active[fresh], anchor[fresh]
        if len(active):
            words = np.searchsorted(thresholds, u[fresh, 1], side="right") + 1
            word = word_of[active, anchor] - 1
            _mask_spans(masked, left, active, begins[active, word], begins[active, word + words])


def _mask_spans(masked: np.ndarray, left: np.ndarray, rows: np.ndarray, begin: np.ndarray, end: np.ndarray) -> None:
    """Mask [begin, end) of the given rows, but no more new tokens than each has left. In place."""
    offsets = np.arange((end - begin).max())
    place = np.minimum(begin[:, None] + offsets, masked.shape[1] - 1)
    is_new = (offsets < (end - begin)[:, None]) & ~masked[rows[:, None], place]
    is_new &= is_new.cumsum(1) <= left[rows][:, None]
    left[rows] -= is_new.sum(1)
    row, offset = np.nonzero(is_new)
    masked[rows[row], place[row, offset]] = True
