"""From texts to what skip-gram learns from: words by frequency, blocks of their ids, and pairs drawn from windows."""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import regex
import torch
from torch import Tensor

from hfcourse.errors import InputError

BOUNDARY = -1  # between documents, in blocks: no window reaches over it
WORD = regex.compile(r"\p{Han}|(?:(?!\p{Han})\w)+")


def split_words(text: str, lowercase: bool = False) -> list[str]:
    """Runs of letters, digits and underscores, and every Chinese character; punctuation is left out."""
    return WORD.findall(text.lower() if lowercase else text)


def count_words(
    texts: Iterable[str], split: Callable[[str], list[str]], min_count: int = 5, max_words: int | None = None
) -> dict[str, int]:
    """Words that occur at least `min_count` times, the most frequent first (of equals the first seen).

    Raises:
        InputError: fewer than two words are left.
    """
    counts = Counter()
    for text in texts:
        counts.update(split(text))
    kept = {word: count for word, count in counts.most_common(max_words) if count >= min_count}
    if len(kept) < 2:
        raise InputError(f"min_count={min_count}: {len(kept)} of {len(counts)} different words occur so often")
    return kept


def word_blocks(
    texts: Iterable[str], split: Callable[[str], list[str]], words: Iterable[str], block_size: int
) -> np.ndarray:
    """Ids of the words of all texts, end to end, (N, block_size) int32.

    Other words are left out, as word2vec does: their neighbours move together. `BOUNDARY` parts the texts and fills up
    the last block.
    """
    id_of = {word: i for i, word in enumerate(words)}
    documents = []
    for text in texts:
        ids = [id_of[word] for word in split(text) if word in id_of]
        documents.append(np.array([*ids, BOUNDARY], dtype=np.int32))
    stream = np.concatenate(documents)
    num_blocks = -(-len(stream) // block_size)
    blocks = np.full(num_blocks * block_size, BOUNDARY, dtype=np.int32)
    blocks[: len(stream)] = stream
    return blocks.reshape(num_blocks, block_size)


def keep_probabilities(counts: Tensor, threshold: float) -> Tensor:
    """How often a word is read at all, Eq. 5 of https://huggingface.co/papers/1310.4546: min(1, √(t / f)).

    Args:
        counts: (V,), occurrences of each word; f is their share.
        threshold: t. Words more frequent than that are thinned out; 0 keeps all.
    """
    if threshold == 0:
        return torch.ones_like(counts, dtype=torch.float32)
    return (threshold * counts.sum() / counts).sqrt().clamp(max=1).float()


def draw_pairs(
    blocks: Tensor, keep: Tensor, window: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(center, context) of all windows: each word, with those up to r beside it, r uniform on 1 … window.

    Thinned-out words are taken away first, so that windows reach over them, as word2vec does.

    Args:
        blocks: (B, L), ids of words; `BOUNDARY` (any negative id) between documents.
        keep: (V,), probability that a word is read.
        window: the largest reach.

    Returns:
        Two (n,) tensors of ids, ordered by distance.
    """
    device = blocks.device
    stream = torch.nn.functional.pad(blocks, (0, 1), value=BOUNDARY).flatten().long()
    is_word = stream >= 0
    document = (~is_word).cumsum(0)
    chance = torch.rand(len(stream), generator=generator, device=device)
    read = is_word & (chance < keep[stream.clamp(min=0)])
    words, document = stream[read], document[read]
    reach = torch.randint(1, window + 1, (len(words),), generator=generator, device=device)
    centers, contexts = [], []
    for distance in range(1, min(window, len(words) - 1) + 1):
        left, right = words[:-distance], words[distance:]
        together = document[:-distance] == document[distance:]
        forward, backward = together & (reach[:-distance] >= distance), together & (reach[distance:] >= distance)
        centers += [left[forward], right[backward]]
        contexts += [right[forward], left[backward]]
    nothing = words[:0]
    return torch.cat([nothing, *centers]), torch.cat([nothing, *contexts])


def draw_negatives(
    cumulative: Tensor, num_pairs: int, num_negatives: int, generator: torch.Generator | None = None
) -> Tensor:
    """(num_pairs, num_negatives) ids from the noise distribution, whose cumulative sums are `cumulative` (V,)."""
    shape = (num_pairs, num_negatives)
    chance = torch.rand(shape, generator=generator, device=cumulative.device, dtype=cumulative.dtype)
    return torch.searchsorted(cumulative, chance, right=True).clamp(max=len(cumulative) - 1)


def noise_distribution(counts: Tensor, power: float = 0.75) -> Tensor:
    """Cumulative sums of n^¾ / Σ n^¾, (V,) float64: rare words are drawn more often than they occur."""
    weights = counts.double() ** power
    return weights.cumsum(0) / weights.sum()
