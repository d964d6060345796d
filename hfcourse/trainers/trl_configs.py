"""Configs of TRL's own RLOO and GRPO, whose precision comes from the hardware; the trainers stay TRL's."""

from dataclasses import dataclass

import trl

from hfcourse.trainers.hardware import HardwareDefaults


@dataclass
class RLOOConfig(HardwareDefaults, trl.RLOOConfig):
    """`trl.RLOOConfig`, on any machine."""


@dataclass
class GRPOConfig(HardwareDefaults, trl.GRPOConfig):
    """`trl.GRPOConfig`, on any machine."""
