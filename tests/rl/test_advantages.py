"""GAE and leave-one-out: by hand, against the definition as a sum, with gaps, junk and padding."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from hfcourse.errors import InputError
from hfcourse.rl import generalized_advantage_estimation, leave_one_out_advantages

# The same three decisions twice: without a gap, and with one after the first and padding at the end.
NAN = math.nan
REWARDS = torch.tensor([[1.0, 0.0, 2.0, NAN, NAN], [1.0, NAN, 0.0, 2.0, NAN]])
VALUES = torch.tensor([[0.5, 1.0, 1.5, NAN, NAN], [0.5, NAN, 1.0, 1.5, NAN]])
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 1, 1, 0]])


def check_gae(function):
    """γ = ½, λ = ½. δ = 1 + ½·1 - ½ = 1, 0 + ½·1.5 - 1 = -¼, 2 - 1.5 = ½.
    A_3 = ½, A_2 = -¼ + ¼·½ = -⅛, A_1 = 1 - ¼·⅛ = 31/32; returns A + V. A gap costs no discount."""
    advantages, returns = function(REWARDS, VALUES, MASK, 0.5, 0.5)
    a, r = (31 / 32, -1 / 8, 1 / 2), (47 / 32, 7 / 8, 2.0)
    torch.testing.assert_close(advantages, torch.tensor([[*a, 0, 0], [a[0], 0, a[1], a[2], 0]]))
    torch.testing.assert_close(returns, torch.tensor([[*r, 0, 0], [r[0], 0, r[1], r[2], 0]]))


def check_leave_one_out(function):
    """Groups (1, 2, 6) and (0, 0, 3): 1 - 4, 2 - 3.5, 6 - 1.5; 0 - 1.5, 0 - 1.5, 3 - 0."""
    advantages = function(torch.tensor([1.0, 2, 6, 0, 0, 3]), 3)
    torch.testing.assert_close(advantages, torch.tensor([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]))


def test_gae_by_hand():
    check_gae(generalized_advantage_estimation)


def test_leave_one_out_by_hand():
    check_leave_one_out(leave_one_out_advantages)


def gae(r, v, m, g, lam):
    return generalized_advantage_estimation(r, v, m, g, lam)


def unmasked(r, v, m, g, lam):
    return gae(r.nan_to_num(0), v.nan_to_num(0.7), torch.ones_like(m), g, lam)


def gaps_as_zero_value(r, v, m, g, lam):
    """OpenRLHF: values and rewards multiplied by the mask, so that a gap looks like the end."""
    advantages, returns = gae(r.nan_to_num(0), v.nan_to_num(0), torch.ones_like(m), g, lam)
    return advantages * m, returns * m


@pytest.mark.parametrize(
    "wrong",
    [
        unmasked,
        gaps_as_zero_value,
        lambda r, v, m, g, lam: gae(r, v, m, 1.0, lam),
        lambda r, v, m, g, lam: gae(r, v, m, g, 1.0),
        lambda r, v, m, g, lam: gae(r, v.roll(-1, 1).nan_to_num(0), m, g, lam),
        lambda r, v, m, g, lam: gae(r.roll(1, 1), v, m, g, lam),
        lambda r, v, m, g, lam: gae(r, -v, m, g, lam),
        lambda r, v, m, g, lam: gae(r.flip(1), v.flip(1), m.flip(1), g, lam),
        lambda r, v, m, g, lam: (gae(r, v, m, g, lam)[0], gae(r, v, m, g, 1.0)[1]),
        lambda r, v, m, g, lam: (gae(r, v, m, g, lam)[0], r.nan_to_num(0)),
        lambda r, v, m, g, lam: tuple(x * m for x in gae(r, v, torch.ones_like(m), g, lam)),
    ],
    ids=["mask ignored", "gap as the end", "gamma ignored", "lambda ignored", "value off by one", "reward late",
         "V's sign", "time reversed", "Monte Carlo returns", "rewards for returns", "NaN times 0"],
)  # fmt: skip
def test_wrong_gae_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_gae(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda r, g: leave_one_out_advantages(-r, g),
        lambda r, g: (r.view(-1, g) - r.view(-1, g).mean(1, keepdim=True)).flatten(),
        lambda r, g: r - (r.sum() - r) / (len(r) - 1),
        lambda r, g: leave_one_out_advantages(r.view(g, -1).T.flatten(), g),
        lambda r, g: (
            (r.view(-1, g) - r.view(-1, g).mean(1, keepdim=True)) / r.view(-1, g).std(1, keepdim=True)
        ).flatten(),
    ],
    ids=["sign", "own answer in the mean", "all prompts together", "interleaved groups", "divided by the std (GRPO)"],
)
def test_wrong_leave_one_out_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_leave_one_out(wrong)


def by_definition(rewards, values, gamma, lam):
    """A_t = Σ_l (γλ)^l δ_{t+l}, a double loop over plain lists."""
    following = [*values[1:], 0.0][: len(values)]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, following, values, strict=True)]
    return [sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, len(deltas))) for t in range(len(deltas))]


@given(st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_agrees_with_the_definition(seed, gamma, lam, extra):
    """Random masks with gaps: each row equals the definition on its real tokens, whatever lies between and around."""
    g = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 3, 6, generator=g, dtype=torch.float64)
    mask = torch.rand(3, 6, generator=g) < 0.6
    pad = torch.nn.functional.pad
    wide = [pad(x.masked_fill(~mask, NAN), (extra, 1), value=NAN) for x in (rewards, values)]
    advantages, returns = generalized_advantage_estimation(*wide, pad(mask, (extra, 1)), gamma, lam)
    advantages, returns = advantages[:, extra:-1], returns[:, extra:-1]
    for i in range(3):
        expected = by_definition(rewards[i, mask[i]].tolist(), values[i, mask[i]].tolist(), gamma, lam)
        torch.testing.assert_close(advantages[i, mask[i]], torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(returns[i, mask[i]], advantages[i, mask[i]] + values[i, mask[i]])
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


def test_lambda_one_is_return_minus_value():
    """γ = λ = 1: A_t = Σ_{u≥t} r_u - V_t; with V = 0 the returns are the rewards to go."""
    zero = torch.zeros_like(VALUES)
    to_go = torch.tensor([[3.0, 2.0, 2.0, 0, 0], [3.0, 0, 2.0, 2.0, 0]])
    torch.testing.assert_close(generalized_advantage_estimation(REWARDS, zero, MASK, 1, 1)[1], to_go)
    advantages, returns = generalized_advantage_estimation(REWARDS, VALUES, MASK, 1, 1)
    torch.testing.assert_close(returns, to_go)
    torch.testing.assert_close(advantages, (to_go - VALUES.nan_to_num(0)) * MASK)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_one_token_gets_its_score_exactly(lam):
    """R = score, V = 0: A = score for any λ. With the score in the slot after EOS it would be λ · score."""
    advantages, _ = generalized_advantage_estimation(
        torch.tensor([[7.0, 0]]), torch.zeros(1, 2), torch.tensor([[1, 0]]), 1, lam
    )
    assert advantages.tolist() == [[7.0, 0.0]]


def test_true_values_leave_no_advantage_on_average():
    """Two actions of ½ each, rewards 0 and 2, V = 1: A = -1 and 1, which average to 0."""
    rewards, values = torch.tensor([[0.0], [2.0]]), torch.ones(2, 1)
    assert generalized_advantage_estimation(rewards, values, torch.ones(2, 1), 1, 0.95)[0].tolist() == [[-1.0], [1.0]]


def test_advantages_are_data():
    values = torch.randn(2, 3, requires_grad=True)
    outputs = generalized_advantage_estimation(torch.randn(2, 3), values, torch.ones(2, 3), 1, 0.95)
    assert not any(x.requires_grad for x in outputs)
    assert not leave_one_out_advantages(torch.randn(4, requires_grad=True), 2).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_extremes(dtype):
    """Rewards of ±10⁴ over 20 tokens sum to 2 · 10⁵, past float16; (10⁴, -10⁴) leaves ±2 · 10⁴."""
    rewards = torch.full((1, 20), 1e4, dtype=dtype)
    returns = generalized_advantage_estimation(rewards, torch.zeros_like(rewards), torch.ones(1, 20), 1, 1)[1]
    assert returns.dtype == torch.float32
    assert returns[0, 0].item() == 20 * rewards[0, 0].item()
    pair = torch.tensor([1e4, -1e4], dtype=dtype)
    assert leave_one_out_advantages(pair, 2).tolist() == [2 * pair[0].item(), -2 * pair[0].item()]


@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_leave_one_out_agrees_with_the_definition(seed, group, num_prompts):
    rewards = torch.randn(num_prompts * group, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = []
    for start in range(0, len(rewards), group):
        answers = rewards[start : start + group].tolist()
        expected += [a - (sum(answers) - a) / (group - 1) for a in answers]
    whole = leave_one_out_advantages(rewards, group)
    torch.testing.assert_close(whole, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(leave_one_out_advantages(rewards[:group], group), whole[:group])


def test_groups_that_cannot_be_formed_are_refused():
    with pytest.raises(InputError, match="num_generations=1"):
        leave_one_out_advantages(torch.ones(4), 1)
    with pytest.raises(InputError, match="4 rewards"):
        leave_one_out_advantages(torch.ones(4), 3)
