"""Reward-model losses: by hand, gradient signs, what they do not identify, and extremes."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from hfcourse.losses import best_of_k_loss, bradley_terry_loss

CHOSEN, REJECTED, MARGIN = (
    torch.tensor([1.0, 0.0]),
    torch.tensor([1.0, math.log(3)]),
    torch.tensor([0.0, -math.log(3)]),
)


def check_bradley_terry(loss):
    """Differences 0 and -log 3: σ = ½ and ¼. With margins 0 and -log 3 the second is σ(0) = ½.
    Centring with c = 0.1 adds 0.1 · 2² and 0.1 · (log 3)²."""
    plain = torch.tensor([math.log(2), math.log(4)])
    torch.testing.assert_close(loss(CHOSEN, REJECTED), plain)
    torch.testing.assert_close(loss(CHOSEN, REJECTED, MARGIN), torch.tensor([math.log(2), math.log(2)]))
    centred = plain + torch.tensor([0.4, 0.1 * math.log(3) ** 2])
    torch.testing.assert_close(loss(CHOSEN, REJECTED, None, 0.1), centred)


def check_best_of_k(loss):
    """Rewards log 1, log 2, log 5: p = 1/8, 2/8, 5/8; the second was chosen: log 4. Absent third answer: log 3/2."""
    rewards = torch.tensor([[0.0, math.log(2), math.log(5)], [0.0, math.log(2), -math.inf]])
    torch.testing.assert_close(loss(rewards, torch.tensor([1, 1])), torch.tensor([math.log(4), math.log(3 / 2)]))


def test_bradley_terry_by_hand():
    check_bradley_terry(bradley_terry_loss)


def test_best_of_k_by_hand():
    check_best_of_k(best_of_k_loss)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda c, r, m=None, k=None: bradley_terry_loss(r, c, m, k),
        lambda c, r, m=None, k=None: -bradley_terry_loss(c, r, m, k),
        lambda c, r, m=None, k=None: bradley_terry_loss(c, r, None, k),
        lambda c, r, m=None, k=None: bradley_terry_loss(c, r, None if m is None else -m, k),
        lambda c, r, m=None, k=None: bradley_terry_loss(c, r, m),
        lambda c, r, m=None, k=None: bradley_terry_loss(c, r, m) + (k or 0) * (c - r).square(),
        lambda c, r, m=None, k=None: bradley_terry_loss(c, r, m, k).mean(),
        lambda c, r, m=None, k=None: -F.logsigmoid(c) - F.logsigmoid(-r),
    ],
    ids=[
        "swapped",
        "sign",
        "margin ignored",
        "margin's sign",
        "centring ignored",
        "difference centred",
        "reduced",
        "BCE",
    ],
)
def test_wrong_bradley_terry_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_bradley_terry(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r, b: best_of_k_loss(-r.nan_to_num(neginf=-9.0), b),
        lambda r, b: best_of_k_loss(r, b).mean(),
        lambda r, b: -r.gather(1, b[:, None])[:, 0],
        lambda r, b: best_of_k_loss(r, (b + 1) % 2),
    ],
    ids=["sign", "reduced", "no normaliser", "wrong answer"],
)
def test_wrong_best_of_k_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_best_of_k(wrong)


def test_gradient_raises_chosen_and_lowers_rejected():
    """dL/dr_w = -(1 - σ(r_w - r_l)) = -dL/dr_l: -½ and -¾."""
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    bradley_terry_loss(chosen, rejected).sum().backward()
    torch.testing.assert_close(chosen.grad, torch.tensor([-0.5, -0.75]))
    torch.testing.assert_close(rejected.grad, torch.tensor([0.5, 0.75]))


def test_best_of_two_is_bradley_terry():
    rewards = torch.randn(6, 2)
    expected = bradley_terry_loss(rewards[:, 1], rewards[:, 0])
    torch.testing.assert_close(best_of_k_loss(rewards, torch.ones(6, dtype=torch.long)), expected)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-50, 50))
@settings(max_examples=50, deadline=None)
def test_only_the_difference_is_identified(chosen, rejected, shift):
    """So RM(y_w) > 0 > RM(y_l), as the notes draw it, is a picture and not a property."""
    pair = torch.tensor([chosen, rejected], dtype=torch.float64)
    torch.testing.assert_close(bradley_terry_loss(*(pair + shift)), bradley_terry_loss(*pair))


def test_least_loss_is_the_labels_entropy():
    """Annotators who agree 3 times in 4: the loss is least at σ(d) = ¾, where it is their entropy and not 0."""
    d = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    zero = torch.zeros_like(d)
    expected = 0.75 * bradley_terry_loss(d, zero) + 0.25 * bradley_terry_loss(zero, d)
    assert d[expected.argmin()].item() == pytest.approx(math.log(3), abs=1e-4)
    assert expected.min().item() == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-9)


def test_differences_of_ten_thousand():
    """Loss 10⁴ and gradient -1 where the order is wrong, 0 and 0 where it is right."""
    chosen = torch.tensor([-5e3, 5e3], requires_grad=True)
    loss = bradley_terry_loss(chosen, torch.tensor([5e3, -5e3]))
    loss.sum().backward()
    assert loss.tolist() == [1e4, 0.0]
    assert chosen.grad.tolist() == [-1.0, 0.0]
    assert best_of_k_loss(torch.tensor([[-5e3, 5e3]]), torch.tensor([0])).tolist() == [1e4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_differences_are_taken_in_float32(dtype):
    """300.5 - 0.5 in half precision; (300.5 + 0.5)² would overflow float16, whose largest number is 65504."""
    chosen, rejected = torch.tensor([0.5], dtype=dtype), torch.tensor([300.0], dtype=dtype)
    losses = bradley_terry_loss(chosen, rejected, center_rewards_coefficient=1.0)
    torch.testing.assert_close(losses, torch.tensor([299.5 + 300.5**2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_best_of_k_runs_in_float32(dtype):
    """Two equal rewards of -10⁴ and a third place that the row does not have: log 2."""
    rewards = torch.tensor([[-1e4, -1e4, -math.inf]], dtype=dtype, requires_grad=True)
    loss = best_of_k_loss(rewards, torch.tensor([1]))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([math.log(2)]))
    assert rewards.grad.tolist() == [[0.5, -0.5, 0.0]]


def test_splits():
    rewards, best = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    halves = [best_of_k_loss(rewards[s], best[s]) for s in (slice(2), slice(2, 5))]
    torch.testing.assert_close(torch.cat(halves), best_of_k_loss(rewards, best))
    chosen, rejected = torch.randn(5), torch.randn(5)
    halves = [bradley_terry_loss(chosen[s], rejected[s]) for s in (slice(2), slice(2, 5))]
    torch.testing.assert_close(torch.cat(halves), bradley_terry_loss(chosen, rejected))
