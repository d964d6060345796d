"""The mathematics of reinforcement learning on sequences: KL penalties, advantages, exact optima. Torch alone."""

from hfcourse.rl.advantages import generalized_advantage_estimation, leave_one_out_advantages
from hfcourse.rl.exact import (
    best_of_n_policy,
    enumerate_completions,
    enumerated_logits,
    enumerated_logps,
    expected_objective,
    optimal_objective,
    optimal_policy,
    sequence_kl,
    state_values,
)
from hfcourse.rl.kl import adapted_beta, kl_full, kl_k1, kl_k2, kl_k3, kl_penalized_rewards, rao_blackwellized_kl_loss

__all__ = [
    "adapted_beta",
    "best_of_n_policy",
    "enumerate_completions",
    "enumerated_logits",
    "enumerated_logps",
    "expected_objective",
    "generalized_advantage_estimation",
    "kl_full",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_penalized_rewards",
    "leave_one_out_advantages",
    "optimal_objective",
    "optimal_policy",
    "rao_blackwellized_kl_loss",
    "sequence_kl",
    "state_values",
]
