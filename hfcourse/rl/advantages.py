"""How much better than expected: advantages from a critic (GAE) or from the other samples of the same prompt."""

import torch
from torch import Tensor

from hfcourse.errors import InputError
from hfcourse.precision import at_least_float32


@torch.no_grad()
def generalized_advantage_estimation(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """GAE(γ, λ), Eq. 16 of https://huggingface.co/papers/1506.02438, over the policy's own tokens.

        δ_t = r_t + γ V(s_{t+1}) - V(s_t)          A_t = δ_t + γ λ A_{t+1}          R_t = A_t + V(s_t)

    V and A are 0 after the last token. Where the mask has a gap (a tool's answer, a user's turn) t + 1 means the next
    token that the policy chose: next value and running advantage are carried over, the gap costs no discount.
    λ = 1 is return minus value, unbiased with any critic; λ < 1 is unbiased with the true V only. With V = 0 and
    λ = 1 the returns are the rewards to go.

    Args:
        rewards: (B, T), r_t, which follows a_t.
        values: (B, T), V(s_t), of the state before a_t.
        mask: (B, T), 1 on the tokens that the policy chose; the rest is not read.
        gamma: γ; 1 in the course, for an answer is short and worth the same whenever it comes.
        lam: λ.

    Returns:
        advantages, returns: each (B, T), float32, 0 where the mask is 0. No gradient.
    """
    rewards, values, mask = at_least_float32(rewards), at_least_float32(values), mask.bool()
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        next_value = values[:, t].where(mask[:, t], next_value)
        next_advantage = advantage.where(mask[:, t], next_advantage)
        advantages[:, t] = advantage.where(mask[:, t], 0.0)
    return advantages, (advantages + values).where(mask, 0.0)


@torch.no_grad()
def leave_one_out_advantages(rewards: Tensor, num_generations: int) -> Tensor:
    """Reward minus the mean reward of the *other* answers to the same prompt (RLOO).

        A_i = R_i - 1/(G-1) Σ_{j≠i} R_j = G/(G-1) (R_i - mean R)

    The others are independent of answer i, so the baseline leaves the policy gradient unbiased; dividing by the
    group's standard deviation (GRPO) would not. https://huggingface.co/papers/2402.14740

    Args:
        rewards: (N · G,), the G answers to each prompt one after the other.
        num_generations: G, at least 2.

    Returns:
        (N · G,), float32.

    Raises:
        InputError: G below 2, or rewards that do not come in groups of G.
    """
    if num_generations < 2:
        raise InputError(f"num_generations={num_generations}: leave-one-out needs at least 2 answers a prompt")
    if len(rewards) % num_generations:
        raise InputError(f"{len(rewards)} rewards do not come in groups of num_generations={num_generations}")
    groups = at_least_float32(rewards).view(-1, num_generations)
    return ((groups - groups.mean(1, keepdim=True)) * (num_generations / (num_generations - 1))).flatten()
