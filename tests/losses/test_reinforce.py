"""REINFORCE: by hand, its gradient, and what must not change it."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from hfcourse.losses import reinforce_loss

LOGPS = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, math.nan]])
MASK = torch.tensor([[1, 0, 1], [1, 1, 0]])
RETURNS = torch.tensor([2.0, -1.0])
TO_GO = torch.tensor([[1.0, math.nan, 3.0], [-1.0, 0.5, math.nan]])


def check_by_hand(loss):
    """Whole return: -2 (-1 - 3) = 8 and 1 · (-4 - 5) = -9.  To go: -(1·-1 + 3·-3) = 10 and -(-1·-4 + ½·-5) = -1.5."""
    torch.testing.assert_close(loss(LOGPS, RETURNS, MASK), torch.tensor([8.0, -9.0]))
    torch.testing.assert_close(loss(LOGPS, TO_GO, MASK), torch.tensor([10.0, -1.5]))


def test_by_hand():
    check_by_hand(reinforce_loss)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p, a, m: -reinforce_loss(p, a, m),
        lambda p, a, m: reinforce_loss(p, a, m) / m.sum(1),
        lambda p, a, m: reinforce_loss(p, a, m).mean(),
        lambda p, a, m: reinforce_loss(p.nan_to_num(), a.nan_to_num(), torch.ones_like(m)),
        lambda p, a, m: -((p * (a if a.dim() == 2 else a[:, None])) * m).sum(1),
        lambda p, a, m: reinforce_loss(p.exp(), a, m),
        lambda p, a, m: reinforce_loss(p, a if a.dim() == 1 else a.roll(1, 1), m),
        lambda p, a, m: reinforce_loss(p, a - a.mean(), m),
    ],
    ids=[
        "sign",
        "1/length",
        "mean over rows",
        "mask ignored",
        "NaN times 0",
        "p for log p",
        "late by one",
        "baseline inside",
    ],
)
def test_wrong_version_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_by_hand(wrong)


def test_gradient_is_minus_the_advantage_on_real_tokens():
    """dL/dlogp_t = -A_t: descending the loss makes rewarded tokens likelier. Nothing flows into the advantage."""
    logps, advantages = LOGPS.clone().requires_grad_(), RETURNS.clone().requires_grad_()
    reinforce_loss(logps, advantages, MASK).sum().backward()
    assert logps.grad.tolist() == [[-2.0, 0.0, -2.0], [1.0, 1.0, 0.0]]
    assert advantages.grad is None


def test_empty_row_is_zero_with_a_gradient():
    logps = LOGPS.clone().requires_grad_()
    loss = reinforce_loss(logps, RETURNS, torch.zeros_like(MASK))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert logps.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    """1000 tokens of -0.5 and an advantage of 200: 10⁵, past float16's largest number."""
    loss = reinforce_loss(
        torch.full((1, 1000), -0.5, dtype=dtype), torch.tensor([200.0], dtype=dtype), torch.ones(1, 1000)
    )
    assert loss.tolist() == [1e5]


def test_extremes():
    loss = reinforce_loss(torch.tensor([[-1e4]]), torch.tensor([1e4]), torch.ones(1, 1))
    assert loss.tolist() == [1e8]


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(0, 4), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_padding_and_splits(seed, batch, cut, extra):
    g = torch.Generator().manual_seed(seed)
    logps = torch.randn(batch, 4, generator=g)
    advantages = torch.randn(batch, 4, generator=g)
    mask = torch.rand(batch, 4, generator=g) < 0.6
    whole = reinforce_loss(logps, advantages, mask)
    pad = torch.nn.functional.pad
    wide = [pad(logps, (extra, 1), value=math.nan), pad(advantages, (extra, 1), value=1e9), pad(mask, (extra, 1))]
    halves = [reinforce_loss(*(x[s] for x in wide)) for s in (slice(cut), slice(cut, None))]
    torch.testing.assert_close(torch.cat(halves), whole)
