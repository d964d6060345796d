"""The mathematics of reinforcement learning on sequences: KL penalties, advantages. Torch alone."""

from hfcourse.rl.advantages import generalized_advantage_estimation, leave_one_out_advantages
from hfcourse.rl.kl import kl_full, kl_k1, kl_k2, kl_k3, kl_penalized_rewards, rao_blackwellized_kl_loss

__all__ = [
    "generalized_advantage_estimation",
    "kl_full",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_penalized_rewards",
    "leave_one_out_advantages",
    "rao_blackwellized_kl_loss",
]
