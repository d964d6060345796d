"""The policy gradient, as a loss."""

from torch import Tensor

from hfcourse.precision import at_least_float32


def reinforce_loss(per_token_logps: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """REINFORCE; its gradient is minus the sampled policy gradient (course notes, 2.2.2).

        L = -Σ_t A_t log π(a_t | s_t)          ∇E[R] = E[R ∇log p] ≈ (1/m) Σ_i R(s_i) ∇log p(s_i)

    A sum, for log p(s) = Σ_t log π(a_t | s_t): a mean over tokens would weigh each answer by 1/length, and ascend
    another objective. Anything that does not depend on a_t and what follows may be subtracted from A_t.

    Args:
        per_token_logps: (B, T), log π(a_t | s_t).
        advantages: (B,), A of the whole sequence, or (B, T), A_t of each token. Taken as constants.
        mask: (B, T), 1 on the tokens that the policy chose, EOS included.

    Returns:
        (B,), float32.
    """
    advantages = advantages.detach()
    if advantages.dim() == 1:
        advantages = advantages.unsqueeze(1)
    return -(at_least_float32(per_token_logps) * advantages).where(mask.bool(), 0.0).sum(1)
