"""PPO's clipped losses: every region of the clip by hand, gradients, the first step, extremes."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from hfcourse.losses import ppo_policy_loss, ppo_value_loss, reinforce_loss

# Ratios inside, above and below the clip range, for a good and a bad action each.
RATIOS = torch.tensor([[1.1, 1.5, 0.5], [1.1, 1.5, 0.5]])
ADVANTAGES = torch.tensor([[2.0, 2.0, 2.0], [-2.0, -2.0, -2.0]])
OLD_LOGPS = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, -1.5, -2.5]])
LOGPS = OLD_LOGPS + RATIOS.log()

VALUES = torch.tensor([[1.1, 2.0, 2.0, 0.0]])
OLD_VALUES = torch.ones(1, 4)
RETURNS = torch.tensor([[2.0, 3.0, 1.0, 3.0]])


def check_policy(loss):
    """ε = 0.2. A = 2: -min(2ρ, 2 clip ρ) = -2.2, -2.4 (clipped), -1. A = -2: 2.2, 3, 1.6 (clipped)."""
    losses, clipped = loss(LOGPS, OLD_LOGPS, ADVANTAGES, 0.2)
    torch.testing.assert_close(losses, torch.tensor([[-2.2, -2.4, -1.0], [2.2, 3.0, 1.6]]))
    assert clipped.tolist() == [[False, True, False], [False, False, True]]


def check_value(loss):
    """c = 0.2 about V_old = 1: V = 1.1 is inside, ½ 0.9² = 0.405. V = 2 is cut to 1.2: with R = 3 the clipped error
    1.8 is the larger, 1.62; with R = 1 the free error 1 is, 0.5. V = 0 is cut to 0.8: R = 3, ½ max(9, 4.84) = 4.5."""
    losses, clipped = loss(VALUES, OLD_VALUES, RETURNS, 0.2)
    torch.testing.assert_close(losses, torch.tensor([[0.405, 1.62, 0.5, 4.5]]))
    assert clipped.tolist() == [[False, True, False, False]]


def test_policy_by_hand():
    check_policy(ppo_policy_loss)


def test_value_by_hand():
    check_value(ppo_value_loss)


def unclipped_policy(new, old, adv, eps):
    losses = -(new - old).exp() * adv
    return losses, torch.zeros_like(losses, dtype=torch.bool)


def always_clipped_policy(new, old, adv, eps):
    ratio = (new - old).exp()
    return -ratio.clamp(1 - eps, 1 + eps) * adv, (ratio - 1).abs() > eps


def optimistic_policy(new, old, adv, eps):
    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - eps, 1 + eps)
    return torch.minimum(-ratio * adv, -clipped * adv), ratio != clipped


@pytest.mark.parametrize(
    "wrong",
    [
        lambda n, o, a, e: ppo_policy_loss(o, n, a, e),
        lambda n, o, a, e: ppo_policy_loss(n, o, -a, e),
        lambda n, o, a, e: ppo_policy_loss(n, n, a, e),
        lambda n, o, a, e: ppo_policy_loss(n, torch.zeros_like(o), a, e),
        lambda n, o, a, e: ppo_policy_loss(n, o, a, 0.1),
        lambda n, o, a, e: (ppo_policy_loss(n, o, a, e)[0], ((n - o).exp() - 1).abs() > e),
        unclipped_policy,
        always_clipped_policy,
        optimistic_policy,
    ],
    ids=["inverse ratio", "sign", "ratio always 1", "no old log-probs", "epsilon", "clipped = outside the range",
         "no clip", "always clipped", "min for max"],
)  # fmt: skip
def test_wrong_policy_loss_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_policy(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda v, o, r, c: tuple(2 * x if x.is_floating_point() else x for x in ppo_value_loss(v, o, r, c)),
        lambda v, o, r, c: ppo_value_loss(v, v, r, c),
        lambda v, o, r, c: ppo_value_loss(v, r, o, c),
        lambda v, o, r, c: (0.5 * (v - r).square(), torch.zeros_like(v, dtype=torch.bool)),
        lambda v, o, r, c: (
            torch.minimum(0.5 * (v - r) ** 2, 0.5 * (v.clamp(o - c, o + c) - r) ** 2),
            ppo_value_loss(v, o, r, c)[1],
        ),
        lambda v, o, r, c: ppo_value_loss(v, o, r, 2 * c),
    ],
    ids=["no half", "clipped about itself", "old values and returns swapped", "no clip", "min for max", "clip range"],
)
def test_wrong_value_loss_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_value(wrong)


def test_policy_gradient_is_cut_exactly_where_clipped():
    """dL/dlogp = -A ρ where the clip is idle, 0 where it is active."""
    logps = LOGPS.clone().requires_grad_()
    losses, clipped = ppo_policy_loss(logps, OLD_LOGPS, ADVANTAGES)
    losses.sum().backward()
    torch.testing.assert_close(logps.grad, torch.where(clipped, 0.0, -ADVANTAGES * RATIOS))


def test_value_gradient_is_cut_exactly_where_clipped():
    """dL/dV = V - R where the clip is idle, 0 where it is active."""
    values = VALUES.clone().requires_grad_()
    losses, clipped = ppo_value_loss(values, OLD_VALUES, RETURNS)
    losses.sum().backward()
    torch.testing.assert_close(values.grad, torch.where(clipped, 0.0, VALUES - RETURNS))


def test_nothing_flows_into_the_rollout():
    inputs = [x.clone().requires_grad_() for x in (LOGPS, OLD_LOGPS, ADVANTAGES, VALUES, OLD_VALUES, RETURNS)]
    (ppo_policy_loss(*inputs[:3])[0].sum() + ppo_value_loss(*inputs[3:])[0].sum()).backward()
    assert [x.grad is not None for x in inputs] == [True, False, False, True, False, False]


def test_first_step_is_reinforce():
    """At π = π_old every ratio is 1, nothing is clipped, and the gradient is REINFORCE's."""
    logps = LOGPS.clone().requires_grad_()
    losses, clipped = ppo_policy_loss(logps, LOGPS, ADVANTAGES)
    torch.testing.assert_close(losses, -ADVANTAGES)
    assert not clipped.any()
    (grad,) = torch.autograd.grad(losses.sum(), logps)
    (expected,) = torch.autograd.grad(reinforce_loss(logps, ADVANTAGES, torch.ones(2, 3)).sum(), logps)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("log_ratio", [-1e4, 1e4])
def test_log_ratios_of_ten_thousand_stay_finite(log_ratio, advantage):
    logps = torch.tensor([[log_ratio]], requires_grad=True)
    losses, _ = ppo_policy_loss(logps, torch.zeros(1, 1), torch.tensor([[advantage]]))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logps.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_ratio_is_taken_in_float32(dtype):
    """Log-probs near -20 that differ by one unit in the last place of float16, 2⁻⁶: ρ = exp(2⁻⁶), not rounded."""
    new, old = torch.tensor([[-20.0]], dtype=dtype), torch.tensor([[-20.125]], dtype=dtype)
    losses, _ = ppo_policy_loss(new, old, torch.ones(1, 1))
    torch.testing.assert_close(losses, torch.tensor([[-math.exp(0.125)]]))
    values, _ = ppo_value_loss(torch.tensor([[300.0]], dtype=dtype), torch.zeros(1, 1), torch.zeros(1, 1))
    assert values.tolist() == [[45000.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values_are_clipped_in_float32(dtype):
    """V = 65, V_old = 64, R = 66: clipped to 64.2, which half precision would round to 64.1875 or 64. L = ½ 1.8²."""
    value, old, target = (torch.tensor([[x]], dtype=dtype) for x in (65.0, 64.0, 66.0))
    losses, clipped = ppo_value_loss(value, old, target)
    torch.testing.assert_close(losses, torch.tensor([[1.62]]))
    assert clipped.item()


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_values_of_ten_thousand_off(value):
    """V = ±10⁴, R = ∓10⁴: ½ (2 · 10⁴)² = 2 · 10⁸, with V - R as the gradient."""
    values = torch.tensor([[value]], requires_grad=True)
    losses, _ = ppo_value_loss(values, values.detach(), torch.tensor([[-value]]))
    losses.sum().backward()
    assert losses.item() == 2e8
    assert values.grad.item() == 2 * value


@given(st.integers(0, 2**31), st.floats(0.05, 0.5))
@settings(max_examples=40, deadline=None)
def test_agrees_with_the_definition_by_cases(seed, epsilon):
    """Element by element: A ≥ 0 caps the ratio from above, A < 0 from below."""
    g = torch.Generator().manual_seed(seed)
    new, old, adv = torch.randn(3, 2, 3, generator=g, dtype=torch.float64)
    losses, clipped = ppo_policy_loss(new, old, adv, epsilon)
    for i in range(2):
        for t in range(3):
            ratio, a = math.exp(new[i, t] - old[i, t]), adv[i, t].item()
            capped = min(ratio, 1 + epsilon) if a >= 0 else max(ratio, 1 - epsilon)
            assert losses[i, t].item() == pytest.approx(-capped * a, rel=1e-9)
            assert clipped[i, t].item() == (capped != ratio)
