"""Direct preference optimization."""

import torch.nn.functional as F
from torch import Tensor

from hfcourse.precision import at_least_float32


def implicit_rewards(logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """β (log π(y|x) - log π_ref(y|x)): the reward that π is optimal for, up to Z(x) (course notes, 2.5).

    Eq. 5 of https://huggingface.co/papers/2305.18290 without its β log Z(x), which cancels between two answers to the
    same prompt. Shape of the arguments, float32.
    """
    return beta * (at_least_float32(logps) - at_least_float32(ref_logps))


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """DPO loss, Eq. 7 of https://huggingface.co/papers/2305.18290 (course notes, 2.6).

        h = β [ (log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x)) ]
        L = -(1 - ε) log σ(h) - ε log σ(-h)

    ε = 0 is the paper's loss; ε > 0 is conservative DPO, for labels of which a share ε is flipped: it is least at
    σ(h) = 1 - ε instead of at infinity. At π = π_ref the loss is log 2. With noisy labels it tends to their entropy.

    Args:
        chosen_logps: (B,), log π(y_w|x), summed over the tokens of the answer.
        rejected_logps: (B,), log π(y_l|x).
        ref_chosen_logps: (B,), log π_ref(y_w|x).
        ref_rejected_logps: (B,), log π_ref(y_l|x).
        beta: β, the strength of the KL penalty whose optimum is sought.
        label_smoothing: ε, in [0, 0.5).

    Returns:
        losses, chosen_rewards, rejected_rewards: each (B,), float32, the [`implicit_rewards`] detached.
    """
    chosen_rewards = implicit_rewards(chosen_logps, ref_chosen_logps, beta)
    rejected_rewards = implicit_rewards(rejected_logps, ref_rejected_logps, beta)
    margins = chosen_rewards - rejected_rewards
    losses = -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()
