"""hfcourse: the whole life of a language model on the Hugging Face stack, in code you can read.

Names are imported when they are first used: `import hfcourse` costs nothing, `hfcourse.losses` needs torch alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "hfcourse.losses": (
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
    ),
    "hfcourse.rl": (
        "generalized_advantage_estimation",
        "kl_full",
        "kl_k1",
        "kl_k2",
        "kl_k3",
        "kl_penalized_rewards",
        "leave_one_out_advantages",
    ),
    "hfcourse.collators.masked_lm": ("DataCollatorForMaskedLM",),
    "hfcourse.collators.span_corruption": ("DataCollatorForSpanCorruption",),
    "hfcourse.trainers.causal_lm_trainer": ("CausalLMConfig", "CausalLMTrainer"),
    "hfcourse.trainers.masked_lm_trainer": ("MaskedLMConfig", "MaskedLMTrainer"),
    "hfcourse.trainers.span_corruption_trainer": ("SpanCorruptionConfig", "SpanCorruptionTrainer"),
    "hfcourse.trainers.embeddings_trainer": ("EmbeddingsConfig", "EmbeddingsTrainer"),
    "hfcourse.trainers.classification_trainer": ("ClassificationConfig", "ClassificationTrainer"),
    "hfcourse.trainers.text_to_text_trainer": ("TextToTextConfig", "TextToTextTrainer"),
    "hfcourse.trainers.sft_trainer": ("SFTConfig", "SFTTrainer"),
    "hfcourse.trainers.reward_trainer": ("RewardConfig", "RewardTrainer"),
    "hfcourse.trainers.reinforce_trainer": ("REINFORCEConfig", "REINFORCETrainer"),
    "hfcourse.trainers.ppo_trainer": ("PPOConfig", "PPOTrainer"),
    "hfcourse.trainers.dpo_trainer": ("DPOConfig", "DPOTrainer"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


if TYPE_CHECKING:  # for editors and type checkers, which do not run __getattr__
    from hfcourse.collators.masked_lm import DataCollatorForMaskedLM as DataCollatorForMaskedLM
    from hfcourse.collators.span_corruption import DataCollatorForSpanCorruption as DataCollatorForSpanCorruption
    from hfcourse.losses import (
        best_of_k_loss as best_of_k_loss,
        bradley_terry_loss as bradley_terry_loss,
        dpo_loss as dpo_loss,
        hinge_preference_loss as hinge_preference_loss,
        ipo_loss as ipo_loss,
        ipo_mean_loss as ipo_mean_loss,
        language_modeling_loss as language_modeling_loss,
        ppo_policy_loss as ppo_policy_loss,
        ppo_value_loss as ppo_value_loss,
        reinforce_loss as reinforce_loss,
        robust_dpo_loss as robust_dpo_loss,
        skip_gram_negative_sampling_loss as skip_gram_negative_sampling_loss,
    )
    from hfcourse.rl import (
        generalized_advantage_estimation as generalized_advantage_estimation,
        kl_full as kl_full,
        kl_k1 as kl_k1,
        kl_k2 as kl_k2,
        kl_k3 as kl_k3,
        kl_penalized_rewards as kl_penalized_rewards,
        leave_one_out_advantages as leave_one_out_advantages,
    )
    from hfcourse.trainers.causal_lm_trainer import (
        CausalLMConfig as CausalLMConfig,
        CausalLMTrainer as CausalLMTrainer,
    )
    from hfcourse.trainers.classification_trainer import (
        ClassificationConfig as ClassificationConfig,
        ClassificationTrainer as ClassificationTrainer,
    )
    from hfcourse.trainers.dpo_trainer import DPOConfig as DPOConfig, DPOTrainer as DPOTrainer
    from hfcourse.trainers.embeddings_trainer import (
        EmbeddingsConfig as EmbeddingsConfig,
        EmbeddingsTrainer as EmbeddingsTrainer,
    )
    from hfcourse.trainers.masked_lm_trainer import (
        MaskedLMConfig as MaskedLMConfig,
        MaskedLMTrainer as MaskedLMTrainer,
    )
    from hfcourse.trainers.ppo_trainer import PPOConfig as PPOConfig, PPOTrainer as PPOTrainer
    from hfcourse.trainers.reinforce_trainer import (
        REINFORCEConfig as REINFORCEConfig,
        REINFORCETrainer as REINFORCETrainer,
    )
    from hfcourse.trainers.reward_trainer import RewardConfig as RewardConfig, RewardTrainer as RewardTrainer
    from hfcourse.trainers.sft_trainer import SFTConfig as SFTConfig, SFTTrainer as SFTTrainer
    from hfcourse.trainers.span_corruption_trainer import (
        SpanCorruptionConfig as SpanCorruptionConfig,
        SpanCorruptionTrainer as SpanCorruptionTrainer,
    )
    from hfcourse.trainers.text_to_text_trainer import (
        TextToTextConfig as TextToTextConfig,
        TextToTextTrainer as TextToTextTrainer,
    )


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hfcourse' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__():
    return [*globals(), *__all__]
