"""Random numbers of a batch, row by row: each row has a key, and everything drawn for the row follows from its key."""

from functools import lru_cache

import numpy as np
import torch

# SplitMix64 (Steele, Lea, Flood 2014): number i of the stream with key s is mix(s + i·GOLDEN).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


class RowKeys:
    """Where the keys of a batch come from.

    | `seed`   | a row has the same mask …                                                                         |
    |----------|---------------------------------------------------------------------------------------------------|
    | None     | never: keys come from torch's global generator (DataLoader gives every worker its own)             |
    | a number | wherever the same row is met again in the same epoch: in another batch, process, worker or attempt |

    With a seed, masks depend neither on the batch size nor on the number of processes, and a resumed run goes on with
    those that it would have had. Equal rows of one epoch are masked alike. [`set_epoch`] changes all of them.

    Args:
        seed: see above.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed
        # In shared memory, so that workers which outlive an epoch (persistent_workers) see the next one begin.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Other masks from here on (only with a seed; without one they are always others)."""
        self._epoch.fill_(epoch)

    def of(self, tokens: np.ndarray, mask_seeds: np.ndarray | None = None) -> np.ndarray:
        """One uint64 a row.

        Args:
            tokens: (B, L) ids, padded with 0 to the right.
            mask_seeds: (B,), the rows' own seeds (`hfcourse.data.static_masks`), which outrank seed and epoch.
        """
        if mask_seeds is not None:
            return mix(mix(mask_seeds.astype(np.uint64) + GOLDEN) + np.uint64(self.seed or 0))
        if self.seed is None:
            return torch.randint(2**63 - 1, (len(tokens),)).numpy().astype(np.uint64)
        hashed = (tokens.astype(np.uint64) * _weights(tokens.shape[1])).sum(1)  # zeros on the right change nothing
        run = mix(np.array([[self.seed], [self._epoch.item()]], dtype=np.int64).astype(np.uint64) + GOLDEN)
        return mix(mix(hashed + run[0]) + run[1])


@lru_cache(maxsize=64)
def _weights(count: int) -> np.ndarray:
    return mix(np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer, in place: a bijection of uint64 that leaves no pattern."""
    shifted = np.empty_like(x)
    for shift, multiplier in zip(SHIFTS, MIXERS, strict=False):
        x ^= np.right_shift(x, shift, out=shifted)
        x *= multiplier
    x ^= np.right_shift(x, SHIFTS[2], out=shifted)
    return x


def random_bits(keys: np.ndarray, count: int, stream: int, dtype=np.uint32) -> np.ndarray:
    """(B, count) uniform integers of `dtype` (uint32 or uint64).

    Args:
        keys: (B,) uint64 of [`RowKeys`].
        stream: one number for each purpose, so that a row's draws for different purposes have nothing in common.
    """
    per_word = 8 // np.dtype(dtype).itemsize
    words = np.arange(1, -(-count // per_word) + 1, dtype=np.uint64) * GOLDEN
    stream_keys = mix(keys + np.full(1, stream, dtype=np.uint64) * MIXERS[0])  # an array: it wraps without a warning
    return mix(stream_keys[:, None] + words).view(dtype)[:, :count]


def uniform(keys: np.ndarray, count: int, stream: int) -> np.ndarray:
    """(B, count) float64 in [0, 1), of 53 random bits; arguments as in [`random_bits`]."""
    return (random_bits(keys, count, stream, np.uint64) >> np.uint64(11)) * 2.0**-53


def smallest(bits: np.ndarray, count: int) -> np.ndarray:
    """(B, count) sorted columns of each row's `count` smallest numbers: a uniformly random subset of the columns.

    Args:
        bits: (B, n) random numbers, overwritten. Their low bits become the column's number, so that no two are equal
            and the count is exact; what is left (22 bits and more) makes the law uniform to 1 part in 10⁶.
    """
    rows, columns = bits.shape
    if count == 0:
        return np.empty((rows, 0), dtype=np.int64)
    low = np.array((1 << (columns - 1).bit_length()) - 1, dtype=bits.dtype)
    bits &= ~low
    bits |= np.arange(columns, dtype=bits.dtype)
    largest = np.partition(bits, count - 1, axis=1)[:, count - 1]
    chosen = np.flatnonzero(bits <= largest[:, None]).reshape(rows, count)
    return chosen - np.arange(rows)[:, None] * columns
