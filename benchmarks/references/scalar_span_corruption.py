"""T5's span corruption as it is copied from one training script to the next: a mask a row, then sentinels by sums.

Written from the algorithm's description, for comparison: it is the tests' independent oracle and the benchmark's peer.
"""

import numpy as np


def random_segmentation(num_items: int, num_segments: int, rng: np.random.RandomState) -> np.ndarray:
    """Lengths of `num_segments` non-empty segments of `num_items` items."""
    is_start = np.arange(num_items - 1) < num_segments - 1
    rng.shuffle(is_start)
    segment = np.pad(is_start, [[1, 0]]).cumsum()
    return np.unique(segment, return_counts=True)[1]


def noise_mask(length: int, num_noise: int, num_spans: int, rng: np.random.RandomState) -> np.ndarray:
    """(length,) bool: kept, noise, kept, noise, …"""
    noise = random_segmentation(num_noise, num_spans, rng)
    kept = random_segmentation(length - num_noise, num_spans, rng)
    lengths = np.reshape(np.stack([kept, noise], axis=1), [num_spans * 2])
    begins = np.zeros(length, dtype=np.int8)
    begins[lengths.cumsum()[:-1]] = 1
    return begins.cumsum() % 2 == 1


def sentinel_map(mask: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """(B, L): the sentinel where a run of the mask begins, -1 on the rest of the run, 0 elsewhere."""
    mask = mask.astype(np.int8)
    first = mask - np.roll(mask, 1, axis=-1) * mask
    first[:, 0] = mask[:, 0]
    order = np.where(first != 0, np.cumsum(first, axis=-1), first)
    ids = np.where(order != 0, sentinels[np.maximum(order, 1) - 1], 0)
    return ids - (mask - first)


def with_sentinels(tokens: np.ndarray, ids: np.ndarray, eos: int) -> np.ndarray:
    """(B, …): each run becomes its sentinel; EOS at the end. (Copies that keep `> 0` here lose token 0.)"""
    full = np.where(ids != 0, ids, tokens)
    short = full[full >= 0].reshape(len(tokens), -1)
    return np.concatenate([short, np.full((len(tokens), 1), eos, dtype=np.int32)], axis=-1)


def collate(rows, num_noise: int, num_spans: int, sentinels: np.ndarray, eos: int, rng: np.random.RandomState) -> dict:
    """input_ids and labels of a batch of dict rows of one length."""
    tokens = np.array([row["input_ids"] for row in rows])
    mask = np.asarray([noise_mask(tokens.shape[1], num_noise, num_spans, rng) for _ in range(len(tokens))])
    return apply_mask(tokens, mask, sentinels, eos)


def apply_mask(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, eos: int) -> dict:
    """The pure part: a given mask."""
    return {
        "input_ids": with_sentinels(tokens, sentinel_map(mask, sentinels), eos),
        "labels": with_sentinels(tokens, sentinel_map(~mask, sentinels), eos),
    }
