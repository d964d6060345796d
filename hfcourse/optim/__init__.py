"""Optimizers that torch and transformers lack."""

from hfcourse.optim.rms_adamw import RMSScaledAdamW

__all__ = ["RMSScaledAdamW"]
