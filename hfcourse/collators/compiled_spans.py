"""Span corruption a row at a time, as one would write it in C; numba compiles it (hfcourse[speed]).

To the bit what `random_spans` and `corrupt_spans` make of a whole batch. Those are some sixty numpy calls, whose
40 µs a batch of 8 rows pays as one of 1,024 does; here a token costs the same in either.
"""

import numpy as np
from numba import njit

from hfcourse.collators.randomness import HIGH_BITS, MIXERS, SHIFTS

FIRST_SHIFT, SECOND_SHIFT, LAST_SHIFT = SHIFTS
FIRST_MULTIPLIER, SECOND_MULTIPLIER = MIXERS
HIGH_32, HIGH_64 = HIGH_BITS.values()


@njit(cache=True)
def corrupt_rows(tokens, keys, steps, gaps, noise, spans, sentinels, eos):
    """Inputs (B, M+k+1) and targets (B, N+k+1), int64, of N noise tokens in k spans.

    Args:
        tokens: (B, L). keys: (B,) uint64. steps: of the stream of random numbers (`randomness.stream_steps`).
        gaps: the numbers of the gaps (`noise.gap_numbers`): N - 1, then M - 1 or, with free ends, M + 1.
    """
    rows, length = tokens.shape
    free_ends = len(gaps) > length - 2
    inputs = np.empty((rows, length - noise + spans + 1), np.int64)
    targets = np.empty((rows, noise + spans + 1), np.int64)
    words = np.empty(len(steps), np.uint64)
    bits = words.view(gaps.dtype)[: len(gaps)]
    hidden, kept = np.empty(spans, np.int64), np.empty(spans + free_ends, np.int64)
    for row in range(rows):
        for i in range(len(words)):
            words[i] = _mix(keys[row] + steps[i])
        for i in range(len(gaps)):
            bits[i] = bits[i] & (HIGH_32 if bits.itemsize == 4 else HIGH_64) | gaps[i]
        _cut(bits[: noise - 1], hidden)
        _cut(bits[noise - 1 :], kept)
        if free_ends:
            kept[0] -= 1  # it may be empty, as may the last, which is whatever is left
        _write(tokens[row], kept, hidden, sentinels, eos, inputs[row], targets[row])
    return inputs, targets


@njit(cache=True)
def _mix(x):
    x = (x ^ (x >> FIRST_SHIFT)) * FIRST_MULTIPLIER
    x = (x ^ (x >> SECOND_SHIFT)) * SECOND_MULTIPLIER
    return x ^ (x >> LAST_SHIFT)


@njit(cache=True)
def _cut(bits, lengths):
    """Lengths of the parts of len(bits) + 1 tokens, cut at the gaps with the smallest numbers.

    They are random, so that the processor foresees no branch on them: each is written, and those that count are kept.
    """
    if len(lengths) > 1:
        largest = _nth_smallest(bits, len(lengths) - 1)
        part = 0
        for gap in range(len(bits)):
            lengths[part] = gap + 1
            part += bits[gap] <= largest
    lengths[-1] = len(bits) + 1
    for part in range(len(lengths) - 1, 0, -1):
        lengths[part] -= lengths[part - 1]


@njit(cache=True)
def _nth_smallest(bits, n):
    """Numbers are counted by their first byte; only those that share it with the one that is sought are sorted."""
    shift = 8 * bits.itemsize - 8
    counts = np.zeros(256, np.int64)
    for number in bits:
        counts[number >> shift] += 1
    byte = smaller = 0
    while smaller + counts[byte] < n:
        smaller += counts[byte]
        byte += 1
    same, num_same = np.empty_like(bits), 0
    for number in bits:
        same[num_same] = number
        num_same += number >> shift == byte
    return np.sort(same[:num_same])[n - smaller - 1]


@njit(cache=True)
def _write(tokens, kept, hidden, sentinels, eos, inputs, targets):
    """kept₁ <X> kept₂ <Y> … EOS, and <X> hidden₁ <Y> hidden₂ … EOS."""
    place = i = t = 0
    for span in range(len(hidden)):
        for _ in range(kept[span]):
            inputs[i] = tokens[place]
            i, place = i + 1, place + 1
        inputs[i] = targets[t] = sentinels[span]
        i, t = i + 1, t + 1
        for _ in range(hidden[span]):
            targets[t] = tokens[place]
            t, place = t + 1, place + 1
    while place < len(tokens):
        inputs[i] = tokens[place]
        i, place = i + 1, place + 1
    inputs[i] = targets[t] = eos
