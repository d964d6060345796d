"""Masked sums, moments, whitening: by hand, and independent of padding, of splits and of junk in masked slots."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from hfcourse.masking import (
    masked_mean,
    masked_moments,
    masked_sum,
    mean_and_variance,
    scale,
    whiten,
)

X = torch.tensor([[1.0, 2.0, float("nan")], [4.0, float("inf"), float("nan")]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def whitened(x, mask):
    return whiten(x, mask, *mean_and_variance(*masked_moments(x, mask)))


def ragged(draw_rows):
    """Rows of unequal length as a right-padded batch whose padding is NaN."""
    width = max(len(row) for row in draw_rows) + 2
    x = torch.full((len(draw_rows), width), float("nan"))
    for i, row in enumerate(draw_rows):
        x[i, : len(row)] = torch.tensor(row)
    return x, ~x.isnan()


rows = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=0, max_size=6), min_size=1, max_size=5)


def test_sum_and_mean_by_hand():
    """1 + 2 + 4 = 7; over 14 items 0.5; over the 3 real tokens 7/3."""
    assert masked_sum(X, MASK, 14).item() == 0.5
    assert masked_sum(X, MASK, torch.tensor(14)).item() == 0.5
    assert masked_mean(X, MASK).item() == pytest.approx(7 / 3)


def test_moments_by_hand():
    """n = 3, Σ = 7, Σ² = 1 + 4 + 16 = 21; mean 7/3, biased variance 7 - 49/9 = 14/9."""
    moments = masked_moments(X, MASK)
    assert [m.item() for m in moments] == [3, 7, 21]
    mean, var = mean_and_variance(*moments)
    assert (mean.item(), var.item()) == (pytest.approx(7 / 3), pytest.approx(14 / 9))


def test_nothing_to_average_is_zero_with_a_gradient():
    x = torch.ones(2, 3, requires_grad=True)
    none = torch.zeros(2, 3)
    loss = masked_mean(x, none) + masked_sum(x, none, 0)
    loss.backward()
    assert loss.item() == 0
    assert x.grad.abs().sum() == 0
    assert [m.item() for m in mean_and_variance(*masked_moments(x, none))] == [0, 0]
    assert whitened(x.detach(), none).tolist() == none.tolist()


def test_masked_nan_leaves_the_gradient_clean():
    x = X.clone().requires_grad_()
    masked_mean(x, MASK).backward()
    torch.testing.assert_close(x.grad, MASK / 3)


def test_whiten_by_hand():
    """Mean 7/3, std √(14/9): (1 - 7/3) / 1.2472 = -1.0690, (2 - 7/3) / 1.2472 = -0.2673, 5/3 / 1.2472 = 1.3363."""
    expected = torch.tensor([[-1.0690, -0.2673, 0.0], [1.3363, 0.0, 0.0]])
    torch.testing.assert_close(whitened(X, MASK), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, mask: whitened(x.nan_to_num(0, 0, 0), torch.ones_like(mask)),
        lambda x, mask: whitened(x, mask) + masked_mean(x, mask),
        lambda x, mask: whiten(x, mask, masked_mean(x, mask), x[mask.bool()].var()),
        lambda x, mask: scale(x, mask, x[mask.bool()].var(correction=0)),
    ],
    ids=["padding counted", "mean added back (torchtune's default)", "unbiased variance", "not centred"],
)
def test_wrong_whitening_is_caught(wrong):
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong(X, MASK), whitened(X, MASK), atol=1e-4, rtol=0)


def test_one_token_whitens_to_zero():
    x = torch.tensor([[0.1, 7.0]])
    assert whitened(x, torch.tensor([[1, 0]])).tolist() == [[0.0, 0.0]]


def test_scale_divides_only():
    """Variance 4: every real slot is halved, whatever the mean; the masked slots are 0."""
    out = scale(X, MASK, torch.tensor(4.0))
    torch.testing.assert_close(out, torch.tensor([[0.5, 1.0, 0.0], [2.0, 0.0, 0.0]]))


def test_scale_of_equal_rewards_leaves_them():
    x, mask = torch.full((1, 4), 0.3), torch.ones(1, 4)
    _, var = mean_and_variance(*masked_moments(x, mask))
    assert torch.equal(scale(x, mask, var), x)


def test_variance_survives_a_large_mean():
    """{10⁵, 10⁵ + 1}: variance ¼. In float32 the squares (10¹⁰) would already have lost it."""
    _, var = mean_and_variance(*masked_moments(torch.tensor([1e5, 1e5 + 1]), torch.ones(2)))
    assert var.item() == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    """5000 halves sum to 2500; adding them up in bfloat16 stalls at 128."""
    total = masked_sum(torch.full((5000,), 0.5, dtype=dtype), torch.ones(5000), 1)
    assert total.dtype == torch.float32
    assert total.item() == 2500


@given(rows)
@settings(max_examples=40, deadline=None)
def test_agrees_with_the_list_of_real_tokens(rows):
    x, mask = ragged(rows)
    real = x[mask].double()
    count, total, total_sq = masked_moments(x, mask)
    assert count.item() == len(real)
    assert math.isclose(masked_mean(x, mask).item(), real.mean().item() if len(real) else 0.0, abs_tol=1e-4)
    _, var = mean_and_variance(count, total, total_sq)
    if len(real):
        assert math.isclose(var.item(), real.var(correction=0).item(), rel_tol=1e-9, abs_tol=1e-9)
    white = whitened(x, mask)
    assert (white[~mask] == 0).all()
    assert white.isfinite().all()
    if var > 1e-3:
        assert white[mask].mean().abs() < 1e-3
        assert abs(white[mask].var(correction=0) - 1) < 1e-3


@given(rows, st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_additive_over_splits(rows, cut):
    """Sums divided by the whole window's count, and moments, add up over micro-batches."""
    x, mask = ragged(rows)
    cut = min(cut, len(rows))
    parts = [(x[:cut], mask[:cut]), (x[cut:], mask[cut:])]
    num_items = mask.sum()
    whole = masked_sum(x, mask, num_items)
    torch.testing.assert_close(sum(masked_sum(a, m, num_items) for a, m in parts), whole, atol=1e-4, rtol=1e-5)
    for split, joint in zip(
        zip(*(masked_moments(a, m) for a, m in parts), strict=True), masked_moments(x, mask), strict=True
    ):
        torch.testing.assert_close(sum(split), joint)


@given(rows, st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_independent_of_padding(rows, extra):
    x, mask = ragged(rows)
    wide, wide_mask = (
        torch.nn.functional.pad(x, (extra, extra), value=1e9),
        torch.nn.functional.pad(mask, (extra, extra)),
    )
    torch.testing.assert_close(whitened(wide, wide_mask)[wide_mask], whitened(x, mask)[mask])
    torch.testing.assert_close(masked_mean(wide, wide_mask), masked_mean(x, mask))
