"""Random numbers of a batch, row by row: each row has a key, and everything drawn for the row follows from its key."""

from functools import lru_cache

import numpy as np
import torch

# SplitMix64 (Steele, Lea, Flood 2014): number i of the stream with key s is mix(s + i·GOLDEN).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
HIGH_BITS = {np.dtype(np.uint32): np.uint32(2**32 - 2**10), np.dtype(np.uint64): np.uint64(2**64 - 2**32)}


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
            return torch.randint(2**63 - 1, (len(tokens),)).numpy().view(np.uint64)
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
    return mix(keys[:, None] + stream_steps(stream, -(-count // per_word))).view(dtype)[:, :count]


def random_bits_at(keys: np.ndarray, places: np.ndarray, stream: int) -> np.ndarray:
    """(n,) uint64: what [`random_bits`] of the row with keys[i] has at places[i]; for few of many places.

    Args:
        keys: (n,) uint64. places: (n,) integers.
    """
    return mix(keys + (places.astype(np.uint64) * GOLDEN + stream_steps(stream, 1)))


@lru_cache(maxsize=256)
def stream_steps(stream: int, count: int) -> np.ndarray:
    """(count,) uint64: where the stream begins, and GOLDEN further at each step."""
    return mix(np.full(1, stream, dtype=np.uint64) * MIXERS[0]) + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN


def uniform(keys: np.ndarray, count: int, stream: int) -> np.ndarray:
    """(B, count) float64 in [0, 1), of 53 random bits; arguments as in [`random_bits`]."""
    return (random_bits(keys, count, stream, np.uint64) >> np.uint64(11)) * 2.0**-53


def numbered(bits: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The random numbers with their low bits overwritten, in place, so that no two of a row are equal.

    Args:
        bits: (B, n) of which 22 bits and more are left, which makes [`smallest`] uniform to 1 part in 10⁶.
        numbers: (n,) of the same type, below 2¹⁰ (uint32) or 2³² (uint64), each once where it matters.
    """
    bits &= HIGH_BITS[bits.dtype]
    bits |= numbers
    return bits


def smallest(bits: np.ndarray, count: int) -> np.ndarray:
    """(B, n) bool: each row's `count` smallest numbers, a uniformly random subset of its columns.

    Args:
        bits: (B, n) random numbers, no two of a row equal ([`numbered`]), so that the count is exact.
    """
    if count == 0:
        return np.zeros(bits.shape, dtype=bool)
    return bits <= np.partition(bits, count - 1, axis=1)[:, count - 1 : count]
