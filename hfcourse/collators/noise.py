"""Which tokens are noise: T5's random spans and its other laws, and how long what comes of them is."""

import math
from functools import lru_cache

import numpy as np

from hfcourse.collators.randomness import numbered, random_bits, smallest
from hfcourse.errors import InputError

NOISE = 0  # stream of random numbers
MAX_COLUMNS_OF_UINT32 = 1024


def noise_counts(raw_length: int, noise_density: float, mean_noise_span_length: float) -> tuple[int, int]:
    """(N noise tokens, k noise spans) of a row, as T5 rounds them (half to even).

    N = min(max(round(L·r), 1), L - 1)        k = max(round(N / μ), 1), at most N and L - N
    """
    noise = min(max(round(raw_length * noise_density), 1), raw_length - 1)
    spans = min(max(round(noise / mean_noise_span_length), 1), noise, raw_length - noise)
    return noise, spans


def corrupted_lengths(raw_length: int, noise_density: float, mean_noise_span_length: float) -> tuple[int, int]:
    """(tokens of the input, tokens of the target): what is kept (or noise), a sentinel a span, and EOS."""
    noise, spans = noise_counts(raw_length, noise_density, mean_noise_span_length)
    return raw_length - noise + spans + 1, noise + spans + 1


def raw_length_for(input_length: int, noise_density: float, mean_noise_span_length: float) -> int:
    """The longest row whose corrupted input has at most `input_length` tokens (T5's compute_input_and_target_lengths).

    At density ½ the target must not be longer than the input either, which costs a token where N rounds up.
    """
    length = 2
    while corrupted_lengths(length + 1, noise_density, mean_noise_span_length)[0] <= input_length:
        length += 1
    inputs, targets = corrupted_lengths(length, noise_density, mean_noise_span_length)
    if inputs > input_length:
        raise InputError(f"input_length={input_length}: too short for one token, one sentinel and EOS; take 3 or more")
    return length - 1 if noise_density == 0.5 and targets > inputs else length


def random_spans(
    keys: np.ndarray, raw_length: int, noise: int, spans: int, free_ends: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the parts kept₁ noise₁ kept₂ noise₂ … keptₖ noiseₖ [keptₖ₊₁] of each row.

    T5's law makes all C(N-1, k-1)·C(M-1, k-1) masks of N noise and M kept tokens in k spans each equally likely. Every
    row then begins with a kept token and ends with a noise token, and where k = 1 all rows have one and the same mask.

    Args:
        keys: (B,), the rows' keys.
        free_ends: what is kept has k + 1 parts, of which the first and the last may be empty; all
            C(N-1, k-1)·C(M+1, k) masks of N tokens in k runs are equally likely. The first token is then noise with
            probability k/(M+1), as is the last: more seldom than one in the middle (N/L), but as any of them can be.

    Returns:
        kept (B, k) or, with free ends, (B, k + 1), and noise (B, k).
    """
    # A composition is a choice of gaps between neighbours. That of the kept tokens follows on that of the noise, so
    # that either step is one call for both: in a small batch calls cost more than tokens.
    gaps, parts = gap_numbers(raw_length, noise, free_ends), spans + free_ends
    bits = numbered(random_bits(keys, len(gaps), NOISE, gaps.dtype), gaps)
    is_cut = np.ones((len(keys), len(gaps) + 3), dtype=bool)
    is_cut[:, 1:noise] = smallest(bits[:, : noise - 1], spans - 1)
    is_cut[:, noise + 1 : -1] = smallest(bits[:, noise - 1 :], parts - 1)
    cuts = is_cut.ravel().nonzero()[0].reshape(len(keys), spans + parts + 1)
    lengths = cuts[:, 1:] - cuts[:, :-1]
    if free_ends:
        lengths[:, [spans, -1]] -= 1
    return lengths[:, spans:], lengths[:, :spans]


@lru_cache(maxsize=64)
def gap_numbers(raw_length: int, noise: int, free_ends: bool = False) -> np.ndarray:
    """(N - 1 + M - 1,) or, with free ends, 2 more: the number of each gap among the noise, then among what is kept."""
    kept = raw_length - noise + 2 * free_ends
    dtype = np.uint32 if max(kept, noise) <= MAX_COLUMNS_OF_UINT32 else np.uint64
    return np.concatenate([np.arange(noise - 1), np.arange(kept - 1)]).astype(dtype)


def spans_to_mask(kept_lengths: np.ndarray, noise_lengths: np.ndarray) -> np.ndarray:
    """(B, L) bool, True where a token is noise, from the lengths of [`random_spans`]."""
    rows, spans = noise_lengths.shape
    parts = np.empty((rows, spans + kept_lengths.shape[1]), dtype=np.int64)
    parts[:, 0::2], parts[:, 1::2] = kept_lengths, noise_lengths
    is_noise = np.zeros(parts.shape, dtype=bool)
    is_noise[:, 1::2] = True
    return np.repeat(is_noise.ravel(), parts.ravel()).reshape(rows, -1)


def iid_noise(keys: np.ndarray, raw_length: int, noise_density: float) -> np.ndarray:
    """(B, L) bool: every token is noise with probability r, whatever the others are (T5's iid_noise_mask)."""
    return random_bits(keys, raw_length, NOISE) < np.uint32(min(round(noise_density * 2**32), 2**32 - 1))


def regular_noise(keys: np.ndarray, raw_length: int, noise_density: float, max_span_length: int = 5) -> np.ndarray:
    """(B, L) bool: spans of one length at one distance from each other (T5's regular_noise_mask).

    The length l of a row's spans is uniform in 1 … `max_span_length`, their period is round(l / r), and the first
    begins at a random place of the period.
    """
    bits = random_bits(keys, 2, NOISE, np.uint64)
    length = bits[:, 0] % np.uint64(max_span_length) + np.uint64(1)
    period = np.maximum(np.rint(length / noise_density), 1).astype(np.uint64)
    offset = bits[:, 1] % period
    place = np.arange(raw_length, dtype=np.uint64) + offset[:, None]
    return place % period[:, None] < length[:, None]


def max_prefix_noise(raw_length: int, noise_density: float | None) -> int:
    """The most tokens that [`prefix_noise`] hides."""
    if noise_density is None:
        return raw_length - 1
    return min(max(math.floor(2 * raw_length * noise_density) - 1, 1), raw_length - 1)


def prefix_noise(keys: np.ndarray, raw_length: int, noise_density: float | None = None) -> np.ndarray:
    """(B, L) bool: the end of a row, all that is to be written from its beginning on (T5's prefix LM).

    As many tokens are hidden as a uniform draw from 1 … L - 1 says; with a density r (UL2's sequential denoiser), from
    1 … 2·L·r - 1, so that r of the tokens are noise on average.
    """
    most = np.uint64(max_prefix_noise(raw_length, noise_density))
    noise = 1 + (random_bits(keys, 1, NOISE, np.uint64)[:, 0] % most).astype(np.int64)
    return np.arange(raw_length) >= raw_length - noise[:, None]
