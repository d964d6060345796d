"""KL(π ‖ π_ref): estimators from the sampled tokens, the full sum over the vocabulary, and the penalty in the reward.

Which one where (each row is a test in tests/rl/test_exact.py):

    in the reward        k1, and only k1: E[Σ_t k1] is the KL, and so is its policy gradient. k3 there is another
                         objective altogether.
    as a loss            k2 of whole sequences, or the Rao-Blackwellised loss. k1 as a loss has an expected gradient
                         of 0; k2 and k3 token by token lack the effect of a token on the KL of later ones.
    as a number to log   k1 is unbiased; k3 is too, with less variance and never negative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hfcourse.precision import at_least_float32

# exp(80) = 6e34 still fits float32, with room for a sum; exp(89) does not.
MAX_EXPONENT = 80.0


def kl_k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """k1 = log π - log π_ref of the sampled tokens or sequences (http://joschu.net/blog/kl-approx.html).

    Unbiased under samples of π. The log-ratio in the course's reward (notes, 2.2). Any shape, float32.
    """
    return at_least_float32(logps) - at_least_float32(ref_logps)


def kl_k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """k2 = ½ (log π - log π_ref)². Biased as a number; of whole sequences, its gradient is the KL's, unbiased."""
    return 0.5 * kl_k1(logps, ref_logps).square()


def kl_k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """k3 = π_ref/π - 1 - log(π_ref/π). Unbiased and never negative; its gradient is that of KL(π_ref ‖ π)."""
    log_ratio = kl_k1(ref_logps, logps)
    return log_ratio.clamp(max=MAX_EXPONENT).expm1() - log_ratio


def kl_full(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Σ_v π(v|s) (log π(v|s) - log π_ref(v|s)), the KL of each next-token distribution.

    Args:
        logits, ref_logits: (..., V); divide both by the temperature first. -inf in `logits` forbids a token.

    Returns:
        (...), float32, with the gradient of the sum (the "pathwise" part of the gradient of the sequence KL).
    """
    logps = F.log_softmax(at_least_float32(logits), dim=-1)
    ref_logps = F.log_softmax(at_least_float32(ref_logits), dim=-1)
    # p (log p - log q) tends to 0 with p, but 0 · (-inf - q) is NaN.
    log_ratio = (logps - ref_logps).masked_fill(logps.isneginf(), 0.0)
    return (logps.exp() * log_ratio).sum(-1)


def rao_blackwellized_kl_loss(token_kl: Tensor, logps: Tensor, mask: Tensor) -> Tensor:
    """A loss whose expected gradient is that of KL(π ‖ π_ref) over sequences, with the least variance of its kind.

        L = Σ_t [ KL_t + sg(Σ_{u>t} KL_u) log π(a_t|s_t) ]          KL_t = KL(π(·|s_t) ‖ π_ref(·|s_t))

    The first term moves each distribution, the second pays a token for the KL of the states it leads to; most losses
    that average KL_t forget it. Its value is not the KL: log Σ_t KL_t. (https://huggingface.co/papers/2504.10637)

    Args:
        token_kl: (B, T), [`kl_full`] at each state, with its gradient.
        logps: (B, T), log π(a_t|s_t) of the tokens sampled from π.
        mask: (B, T), 1 on the tokens that the policy chose.

    Returns:
        (B,), float32.
    """
    mask = mask.bool()
    token_kl = at_least_float32(token_kl).where(mask, 0.0)
    future_kl = (token_kl.sum(1, keepdim=True) - token_kl.cumsum(1)).detach()
    return (token_kl + future_kl * at_least_float32(logps).where(mask, 0.0)).sum(1)


@torch.no_grad()
def kl_penalized_rewards(scores: Tensor, logps: Tensor, ref_logps: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The course's reward, token by token (notes, 2.1): R(s) = RM(s) - β log(π(s) / π_ref(s)).

        r_t = -β (log π(a_t|s_t) - log π_ref(a_t|s_t)) + [t is the last token] RM(s)

    so that Σ_t r_t = R(s). The score follows the last token that the policy chose (EOS, or the last before the cut),
    not the slot after it: one token alone gets exactly its score.

    Args:
        scores: (B,), RM(s).
        logps, ref_logps: (B, T), of the sampled tokens under the policy that sampled them and under the reference.
        mask: (B, T), 1 on the tokens that the policy chose; may have gaps. A row without any gets no score.
        beta: β.

    Returns:
        (B, T), float32, 0 where the mask is 0. No gradient: rewards are data.
    """
    mask = mask.bool()
    penalties = (-beta * kl_k1(logps, ref_logps)).where(mask, 0.0)
    num_left = mask.flip(1).cumsum(1).flip(1)
    is_last = mask & (num_left == 1)
    return penalties + at_least_float32(scores).unsqueeze(1).where(is_last, 0.0)


def adapted_beta(beta: float, kl: float, target_kl: float, num_sequences: int, horizon: int) -> float:
    """One step of the adaptive KL controller, Sec. 2.2 of https://huggingface.co/papers/1909.08593.

        e = clip(KL / KL_target - 1, -0.2, 0.2)          β ← β (1 + e n / horizon)

    Args:
        beta: β.
        kl: mean KL of whole sequences, in nats (Σ_t k1 over the completion's own tokens).
        target_kl: KL_target, in nats a sequence.
        num_sequences: n, sequences that `kl` is the mean of.
        horizon: sequences after which a KL far from the target has moved β by a fifth, about.
    """
    error = min(max(kl / target_kl - 1, -0.2), 0.2)
    return beta * (1 + error * num_sequences / horizon)
