"""DPO's relatives: the same margin under another loss.

Each takes the arguments of [`hfcourse.losses.dpo_loss`] and returns what it returns. In all of them `label_smoothing`
is ε, the share of labels believed to be flipped.
"""

import torch.nn.functional as F
from torch import Tensor

from hfcourse.errors import InputError
from hfcourse.losses.dpo import implicit_rewards
from hfcourse.precision import at_least_float32


def ipo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """IPO loss, Eq. 17 of https://huggingface.co/papers/2310.12036; β is its τ.

        h = log [π(y_w|x) π_ref(y_l|x)] / [π(y_l|x) π_ref(y_w|x)]
        L = (1 - ε) (h - 1/(2β))² + ε (h + 1/(2β))²

    With log-probs summed over tokens, as in the paper, its optimum is π ∝ π_ref exp(E_y'[p(y ≻ y')] / β), which is
    not the optimum of DPO. TRL averages over tokens: see [`ipo_mean_loss`].

    Returns:
        losses, chosen_rewards, rejected_rewards: each (B,).
    """
    chosen_rewards = implicit_rewards(chosen_logps, ref_chosen_logps, beta)
    rejected_rewards = implicit_rewards(rejected_logps, ref_rejected_logps, beta)
    log_ratios = (chosen_rewards - rejected_rewards) / beta
    target = 1 / (2 * beta)
    losses = (1 - label_smoothing) * (log_ratios - target).square() + label_smoothing * (log_ratios + target).square()
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


def ipo_mean_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    chosen_num_tokens: Tensor,
    rejected_num_tokens: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """[`ipo_loss`] of log-probs averaged over the tokens of each answer, which is what TRL's `loss_type="ipo"` does.

    Args:
        chosen_num_tokens, rejected_num_tokens: (B,), |y_w| and |y_l|; the log-probs are sums all the same.

    Returns:
        losses, chosen_rewards, rejected_rewards: each (B,); the rewards are those of the sums.
    """
    chosen_num_tokens, rejected_num_tokens = chosen_num_tokens.clamp(min=1), rejected_num_tokens.clamp(min=1)
    losses, chosen_means, rejected_means = ipo_loss(
        at_least_float32(chosen_logps) / chosen_num_tokens,
        at_least_float32(rejected_logps) / rejected_num_tokens,
        at_least_float32(ref_chosen_logps) / chosen_num_tokens,
        at_least_float32(ref_rejected_logps) / rejected_num_tokens,
        beta,
        label_smoothing,
    )
    return losses, chosen_means * chosen_num_tokens, rejected_means * rejected_num_tokens


def hinge_preference_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Hinge loss on the margin h of DPO, after https://huggingface.co/papers/2309.06657 (normalised SLiC).

        L = (1 - ε) max(0, 1 - h) + ε max(0, 1 + h)

    Returns:
        losses, chosen_rewards, rejected_rewards: each (B,).
    """
    chosen_rewards = implicit_rewards(chosen_logps, ref_chosen_logps, beta)
    rejected_rewards = implicit_rewards(rejected_logps, ref_rejected_logps, beta)
    margins = chosen_rewards - rejected_rewards
    losses = (1 - label_smoothing) * (1 - margins).relu() + label_smoothing * (1 + margins).relu()
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


def robust_dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Robust DPO, https://huggingface.co/papers/2403.00409: DPO's loss made unbiased under label flips.

        L = [ -(1 - ε) log σ(h) + ε log σ(-h) ] / (1 - 2ε)

    Its expectation over labels flipped with probability ε is the DPO loss of the clean labels, so its optimum is
    theirs. A single loss may be negative and has no lower bound: stop early.

    Returns:
        losses, chosen_rewards, rejected_rewards: each (B,).

    Raises:
        InputError: at ε ≥ 0.5 the labels say nothing, or the contrary.
    """
    if not 0 <= label_smoothing < 0.5:
        raise InputError(f"label_smoothing={label_smoothing}: robust DPO needs the share of flips, in [0, 0.5)")
    chosen_rewards = implicit_rewards(chosen_logps, ref_chosen_logps, beta)
    rejected_rewards = implicit_rewards(rejected_logps, ref_rejected_logps, beta)
    margins = chosen_rewards - rejected_rewards
    unscaled = -(1 - label_smoothing) * F.logsigmoid(margins) + label_smoothing * F.logsigmoid(-margins)
    return unscaled / (1 - 2 * label_smoothing), chosen_rewards.detach(), rejected_rewards.detach()
