"""What skip-gram learns from: windows against their definition, thinning and noise against their laws."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from hfcourse.data.word_pairs import (
    BOUNDARY,
    count_words,
    draw_negatives,
    draw_pairs,
    keep_probabilities,
    noise_distribution,
    split_words,
    word_blocks,
)
from hfcourse.errors import InputError


def test_words():
    assert split_words("The fox's den: 12 naïve foxes_a, 狐狸!") == [
        *("The", "fox", "s", "den", "12", "naïve", "foxes_a", "狐", "狸")
    ]
    assert split_words("The FOX", lowercase=True) == ["the", "fox"]


def test_words_are_counted_and_the_rare_are_left_out():
    texts = ["b a a c", "c b a"]
    assert count_words(texts, str.split, min_count=1) == {"a": 3, "b": 2, "c": 2}  # of equals the first seen
    assert list(count_words(texts, str.split, min_count=1, max_words=2)) == ["a", "b"]
    with pytest.raises(InputError, match="min_count=3: 1 of 3 different words occur so often"):
        count_words(texts, str.split, min_count=3)


def test_blocks_hold_the_ids_end_to_end():
    """b is no word: a and c move together. Each text ends in a boundary, and so is the last block filled up."""
    blocks = word_blocks(["a b c", "", "c a a"], str.split, ["a", "c"], block_size=4)
    assert blocks.tolist() == [[0, 1, -1, -1], [1, 0, 0, -1]]
    assert blocks.dtype == np.int32


def windows(row, reach):
    """The definition, pair by pair. reach: id of each word's position among the words -> r."""
    pairs = []
    for i, center in enumerate(row):
        for j, context in enumerate(row):
            between = row[min(i, j) : max(i, j) + 1]
            if i != j and abs(i - j) <= reach and BOUNDARY not in between:
                pairs.append((center, context))
    return pairs


def test_windows_of_one_by_hand():
    """0 1 | 2 3 and, in another row, 4: reach 1 is certain, and nothing is paired over a boundary or a row's end."""
    blocks = torch.tensor([[0, 1, BOUNDARY, 2, 3], [4, BOUNDARY, 0, BOUNDARY, BOUNDARY]])
    center, context = draw_pairs(blocks, torch.ones(5), window=1)
    assert sorted(zip(center.tolist(), context.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 3), (3, 2)]


@given(
    rows=st.integers(1, 9).flatmap(
        lambda n: st.lists(st.lists(st.integers(BOUNDARY, 5), min_size=n, max_size=n), min_size=1, max_size=3)
    ),
    window=st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_full_windows_are_the_definitions(rows, window):
    """Where every word has the full reach, the pairs are those of two loops over the words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda low, high, shape, **_: torch.full(shape, high - 1))
        center, context = draw_pairs(torch.tensor(rows), torch.ones(6), window)
    expected = [pair for row in rows for pair in windows(row, window)]
    assert Counter(zip(center.tolist(), context.tolist(), strict=True)) == Counter(expected)


def test_a_reach_is_uniform_and_its_center_is_its_own():
    """Ids are positions 0 … n-1: the pair (i, i+d) is there iff word i has a reach of d or more, for 1 - (d - 1)/4."""
    n = 40_000
    center, context = draw_pairs(torch.arange(n)[None], torch.ones(n), window=4, generator=torch.manual_seed(0))
    distance = (center - context).abs()
    for d in range(1, 5):
        share = (distance == d).sum().item() / (2 * n)
        assert abs(share - (5 - d) / 4) < 4 * math.sqrt(0.25 / n)
    reach = torch.zeros(n, dtype=torch.long).scatter_reduce(0, center, distance, "amax")
    for d in range(1, 4):  # whoever reaches d reaches all that is nearer, on both sides
        inner = (reach > d)[10:-10].nonzero().flatten() + 10
        pairs = set(zip(center.tolist(), context.tolist(), strict=True))
        assert all({(i, i + d), (i, i - d)} <= pairs for i in inner[:500].tolist())


def test_thinning_is_the_papers():
    """t = 0.001: a word that is 0.9 of the text is read √(1/900) = 1/30 of the time, one of 0.0005 always."""
    counts = torch.tensor([9000, 995, 5])
    torch.testing.assert_close(
        keep_probabilities(counts, 1e-3), torch.tensor([1 / 30, math.sqrt(10 / 995), 1.0]), rtol=1e-6, atol=0
    )
    assert keep_probabilities(counts, 0).tolist() == [1, 1, 1]


def test_windows_reach_over_words_that_are_not_read():
    """1 is never read: 0 and 2 become neighbours. The 2 after the boundary stays alone."""
    blocks = torch.tensor([[0, 1, 1, 2, BOUNDARY, 2]])
    center, context = draw_pairs(blocks, torch.tensor([1.0, 0.0, 1.0]), window=1)
    assert sorted(zip(center.tolist(), context.tolist(), strict=True)) == [(0, 2), (2, 0)]


@pytest.mark.parametrize("blocks", [[[BOUNDARY, BOUNDARY]], [[0, BOUNDARY]]])
def test_nothing_to_pair(blocks):
    center, context = draw_pairs(torch.tensor(blocks), torch.ones(1), window=5)
    assert center.shape == context.shape == (0,)
    assert center.dtype == torch.long


def test_noise_is_counts_to_the_three_quarters():
    """16^¾ = 8, 1^¾ = 1, 81^¾ = 27, of 36."""
    cumulative = noise_distribution(torch.tensor([16, 1, 81]))
    torch.testing.assert_close(cumulative, torch.tensor([8, 9, 36], dtype=torch.float64) / 36)
    drawn = draw_negatives(cumulative, 20_000, 5, torch.manual_seed(0))
    assert drawn.shape == (20_000, 5)
    shares = drawn.flatten().bincount(minlength=3) / drawn.numel()
    torch.testing.assert_close(shares, torch.tensor([8, 1, 27]) / 36, atol=4 * math.sqrt(0.25 / 100_000), rtol=0)
