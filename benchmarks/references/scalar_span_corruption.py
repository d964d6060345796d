"""T5's span corruption as it is copied from one training script to the next: a mask a row, then sentinels by sums.

Written from the algorithm's description, for comparison: it is the tests' independent oracle and the benchmark's peer.
"""

import numpy as np


def random_segmentation(num_items: int, num_segments: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of `num_segments` non-empty segments of `num_items` items."""
    starts = np.zeros(num_items - 1, dtype=np.int64)
    starts[: num_segments - 1] = 1
    rng.shuffle(starts)
    segment = np.concatenate([[0], starts]).cumsum()
    return np.unique(segment, return_counts=True)[1]


def noise_mask(length: int, num_noise: int, num_spans: int, rng: np.random.Generator) -> np.ndarray:
    """(length,) bool: kept, noise, kept, noise, …"""
    noise = random_segmentation(num_noise, num_spans, rng)
    kept = random_segmentation(length - num_noise, num_spans, rng)
    lengths = np.stack([kept, noise], axis=1).reshape(-1)
    begins = np.zeros(length, dtype=np.int64)
    begins[lengths.cumsum()[:-1]] = 1
    return begins.cumsum() % 2 == 1


def with_sentinels(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """(B, …): each run of the mask becomes its sentinel."""
    first = mask & ~np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    order = first.cumsum(axis=1) - 1
    full = np.where(first, sentinels[np.maximum(order, 0)], np.where(mask, -1, tokens))
    return full[full >= 0].reshape(len(tokens), -1)


def collate(rows, num_noise: int, num_spans: int, sentinels: np.ndarray, eos: int, rng: np.random.Generator) -> dict:
    """input_ids and labels of a batch of dict rows of one length."""
    tokens = np.array([row["input_ids"] for row in rows])
    mask = np.array([noise_mask(tokens.shape[1], num_noise, num_spans, rng) for _ in range(len(tokens))])
    return apply_mask(tokens, mask, sentinels, eos)


def apply_mask(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, eos: int) -> dict:
    """The pure part: a given mask."""
    end = np.full((len(tokens), 1), eos)
    return {
        "input_ids": np.concatenate([with_sentinels(tokens, mask, sentinels), end], axis=1),
        "labels": np.concatenate([with_sentinels(tokens, ~mask, sentinels), end], axis=1),
    }
