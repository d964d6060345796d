"""Objectives as pure functions of tensors: one value an element, torch alone. README.md maps them to the equations."""

from hfcourse.losses.dpo import dpo_loss
from hfcourse.losses.embeddings import skip_gram_negative_sampling_loss
from hfcourse.losses.language_modeling import language_modeling_loss
from hfcourse.losses.ppo import ppo_policy_loss, ppo_value_loss
from hfcourse.losses.preference_variants import hinge_preference_loss, ipo_loss, ipo_mean_loss, robust_dpo_loss
from hfcourse.losses.reinforce import reinforce_loss
from hfcourse.losses.reward import best_of_k_loss, bradley_terry_loss

__all__ = [
    "best_of_k_loss",
    "bradley_terry_loss",
    "dpo_loss",
    "hinge_preference_loss",
    "ipo_loss",
    "ipo_mean_loss",
    "language_modeling_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "reinforce_loss",
    "robust_dpo_loss",
    "skip_gram_negative_sampling_loss",
]
