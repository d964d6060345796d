"""The two clipped losses of PPO."""

import torch
from torch import Tensor

from hfcourse.precision import at_least_float32

# exp(20) ≈ 5e8 is far outside any clip range already; beyond it exp overflows, and a gradient of 0 · inf is NaN.
MAX_LOG_RATIO = 20.0


def ppo_policy_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, epsilon: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate, Eq. 7 of https://huggingface.co/papers/1707.06347 with its sign turned.

        L = -min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)          ρ = exp(log π(a|s) - log π_old(a|s))

    Args:
        logps: (B, T), log π(a_t | s_t).
        old_logps: (B, T), the same under the policy that sampled a_t. Taken as constants.
        advantages: (B, T), A_t. Taken as constants.
        epsilon: ε.

    Returns:
        losses (B, T), float32, and clipped (B, T), True where the clip cuts the gradient.
    """
    advantages = advantages.detach()
    log_ratio = at_least_float32(logps) - at_least_float32(old_logps).detach()
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    unclipped_losses = -ratio * advantages
    clipped_losses = -ratio.clamp(1 - epsilon, 1 + epsilon) * advantages
    return torch.maximum(unclipped_losses, clipped_losses), clipped_losses > unclipped_losses


def ppo_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Clipped squared error of the critic, as in OpenAI's baselines (https://huggingface.co/papers/1909.08593, code).

        L = ½ max((V - R)², (clip(V, V_old - c, V_old + c) - R)²)

    Args:
        values: (B, T), V(s_t).
        old_values: (B, T), V_old(s_t), the critic's values when the rollout was made. Taken as constants.
        returns: (B, T), R_t. Taken as constants.
        cliprange_value: c.

    Returns:
        losses (B, T), float32, and clipped (B, T), True where the clip cuts the gradient.
    """
    values, old_values, returns = map(at_least_float32, (values, old_values.detach(), returns.detach()))
    near_values = values.clamp(old_values - cliprange_value, old_values + cliprange_value)
    unclipped_losses = 0.5 * (values - returns).square()
    clipped_losses = 0.5 * (near_values - returns).square()
    return torch.maximum(unclipped_losses, clipped_losses), clipped_losses > unclipped_losses
