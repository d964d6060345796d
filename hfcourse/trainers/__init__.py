"""Trainers: each file holds one method, its Config above its Trainer. Imported when first used."""

from importlib import import_module
from typing import TYPE_CHECKING

_MODULE_OF = {
    f"{method}{kind}": f"hfcourse.trainers.{module}_trainer"
    for module, method in {
        "causal_lm": "CausalLM",
        "masked_lm": "MaskedLM",
        "span_corruption": "SpanCorruption",
        "embeddings": "Embeddings",
        "classification": "Classification",
        "text_to_text": "TextToText",
        "sft": "SFT",
        "reward": "Reward",
        "reinforce": "REINFORCE",
        "ppo": "PPO",
        "dpo": "DPO",
    }.items()
    for kind in ("Config", "Trainer")
}
__all__ = sorted(_MODULE_OF)


if TYPE_CHECKING:  # for editors and type checkers, which do not run __getattr__
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
        raise AttributeError(f"module 'hfcourse.trainers' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__():
    return [*globals(), *__all__]
