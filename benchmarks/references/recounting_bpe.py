"""BPE as it is usually taught: count all pairs of all chunks, merge the best, count again. The peer of `train_bpe`."""

from collections import Counter
from itertools import pairwise

import regex

SPLIT = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def train(text: str, num_merges: int) -> dict[tuple[int, int], int]:
    """(left, right) -> new id, from 256 bytes on; of equal pairs the first seen is merged, as in minbpe."""
    chunks = [list(chunk.encode()) for chunk in SPLIT.findall(text)]
    merges = {}
    for new in range(256, 256 + num_merges):
        counts = Counter()
        for ids in chunks:
            for pair in pairwise(ids):
                counts[pair] += 1
        best = max(counts, key=counts.get)
        chunks = [_merge(ids, best, new) for ids in chunks]
        merges[best] = new
    return merges


def _merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    merged, i = [], 0
    while i < len(ids):
        if i < len(ids) - 1 and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged
