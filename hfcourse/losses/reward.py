"""Reward models from comparisons."""

import torch.nn.functional as F
from torch import Tensor

from hfcourse.precision import at_least_float32


def bradley_terry_loss(
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    margin: Tensor | None = None,
    center_rewards_coefficient: float | None = None,
) -> Tensor:
    """Bradley-Terry loss, Eq. 2 of https://huggingface.co/papers/2305.18290 (course notes, 2.4).

        L = -log σ(r(x, y_w) - r(x, y_l) - m)  [+ c · (r(x, y_w) + r(x, y_l))²]

    Only the difference is identified: r + f(x) has the same loss for any f. The loss tends to the entropy of the
    labels, not to 0, when annotators disagree, and says nothing of the sign of r(x, y_w) itself.

    Args:
        chosen_rewards: (B,), r(x, y_w).
        rejected_rewards: (B,), r(x, y_l).
        margin: (B,), m: by how much the chosen answer is better (https://huggingface.co/papers/2307.09288).
        center_rewards_coefficient: c, which pulls the two rewards' sum to 0 and so picks one of the equivalent r
            (https://huggingface.co/papers/2312.09244).

    Returns:
        (B,), float32.
    """
    chosen_rewards, rejected_rewards = at_least_float32(chosen_rewards), at_least_float32(rejected_rewards)
    difference = chosen_rewards - rejected_rewards
    losses = -F.logsigmoid(difference if margin is None else difference - margin)
    if center_rewards_coefficient is not None:
        losses = losses + center_rewards_coefficient * (chosen_rewards + rejected_rewards).square()
    return losses


def best_of_k_loss(rewards: Tensor, chosen: Tensor) -> Tensor:
    """Plackett-Luce loss of the best of K answers, Eq. 1 of https://huggingface.co/papers/1909.08593.

        L = -log [ exp r(x, y_b) / Σ_k exp r(x, y_k) ]     K = 2 is Bradley-Terry

    Args:
        rewards: (B, K), r(x, y_k); -inf where a row has fewer than K answers.
        chosen: (B,), b, the index of the preferred answer.

    Returns:
        (B,), float32.
    """
    return F.cross_entropy(at_least_float32(rewards), chosen, reduction="none")
