"""Trainers: each file holds one method, its Config above its Trainer. Imported when first used."""

from importlib import import_module

_MODULE_OF = {
    f"{method}{kind}": f"hfcourse.trainers.{module}_trainer"
    for module, method in {
        "causal_lm": "CausalLM",
        "sft": "SFT",
        "reward": "Reward",
        "ppo": "PPO",
        "dpo": "DPO",
    }.items()
    for kind in ("Config", "Trainer")
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hfcourse.trainers' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)
