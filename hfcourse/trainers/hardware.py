"""One config for every machine: what depends on the hardware is taken from the hardware when it is unset."""

import os
from dataclasses import dataclass, field

import torch
from transformers.utils import is_torch_bf16_gpu_available
from transformers.utils.generic import strtobool


@dataclass
class HardwareDefaults:
    """Mixin for training arguments: `use_cpu`, `bf16` and `gradient_checkpointing` follow the machine when unset.

    TRL's configs ask for bf16 and gradient checkpointing, and refuse to be built where there is no accelerator, so
    the same YAML cannot serve a laptop and a cluster. Write the mixin first, then the parent it completes:

        @dataclass
        class SFTConfig(HardwareDefaults, trl.SFTConfig): ...

    |                          | no accelerator | accelerator                                         |
    |--------------------------|----------------|-----------------------------------------------------|
    | `use_cpu`                | True           | False                                               |
    | `bf16`                   | False          | True where it is supported and `fp16` is not asked  |
    | `gradient_checkpointing` | False          | the parent's default, unless FSDP does it already   |

    A value that is given, `False` included, always wins. `report_to` is "none" unless asked for. A pickle of the
    arguments, which training_args.bin is and a push uploads, holds no `hub_token`.
    """

    use_cpu: bool | None = field(
        default=None, metadata={"help": "Train on the CPU. Unset: only if the machine has no accelerator."}
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "bfloat16 mixed precision. Unset: on an accelerator that supports it (and fp16 is not asked for)."
        },
    )
    gradient_checkpointing: bool | None = field(
        default=None,
        metadata={
            "help": "Recompute activations in the backward pass: less memory, about 20%% slower. Unset: the method's "
            "default on an accelerator, off on a CPU."
        },
    )
    report_to: None | str | list[str] = field(
        default="none",
        metadata={"help": "Where to log: none, tensorboard, trackio, wandb, … or all that are installed."},
    )

    def __post_init__(self):
        if self.use_cpu is None:
            self.use_cpu = not torch.accelerator.is_available() or _launched_for_cpu()
        if self.bf16 is None:
            self.bf16 = not self.use_cpu and not self.fp16 and is_torch_bf16_gpu_available()
        # transformers renamed `gradient_checkpointing` to `activation_checkpointing` and mirrors the second into the
        # first: writing the new name keeps both in step and the deprecation warning away.
        if self.activation_checkpointing is None:
            asked = self.gradient_checkpointing
            self.activation_checkpointing = self._checkpointing_default() if asked is None else asked
        super().__post_init__()

    def __getstate__(self) -> dict:
        return {**vars(self), "hub_token": None}

    def _checkpointing_default(self) -> bool:
        # `super()` reads the class attribute of the next class in line: the default that the mixin's field hides.
        # FSDP with its own checkpointing raises if the model recomputes too.
        parent_default = bool(super().gradient_checkpointing)
        return parent_default and not self.use_cpu and not _env_flag("FSDP_ACTIVATION_CHECKPOINTING")


def _launched_for_cpu() -> bool:
    return _env_flag("ACCELERATE_USE_CPU")


def _env_flag(name: str) -> bool:
    return bool(strtobool(os.environ.get(name, "false")))
