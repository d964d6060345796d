"""The critic: one linear layer on the policy's trunk, and how it is kept beside the policy's weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hfcourse.errors import InputError
from hfcourse.models.token_stats import causal_lm_of

VALUE_HEAD_FILE = "value_head.safetensors"
PREFIX = "value_head."


class ValueHead(nn.Linear):
    """V(s) = w·h(s) + b, in float32, and 0 before the first update: then the first advantages are plain returns."""

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., d), last hidden state of each s -> (...), V(s)."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.float()).squeeze(-1)


def add_value_head(model: nn.Module) -> None:
    """Attach a [`ValueHead`] to a causal LM (inside its PEFT wrapper, where it has one) as `value_head`.

    It is a submodule of the policy because Trainer clips, saves and shards one model only.
    """
    model = causal_lm_of(model)
    model.value_head = ValueHead(model.config.get_text_config().hidden_size).to(model.device)


def split_value_head(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parts a state dict into (the policy's, the value head's with bare names)."""
    policy, head = {}, {}
    for name, tensor in state_dict.items():
        _, found, bare_name = name.rpartition(PREFIX)
        if found:
            head[bare_name] = tensor
        else:
            policy[name] = tensor
    return policy, head


def save_value_head(head: dict[str, Tensor], folder: str | Path) -> None:
    """Write `value_head.safetensors` beside the policy, which stays an ordinary model folder."""
    save_file({name: tensor.contiguous() for name, tensor in head.items()}, Path(folder, VALUE_HEAD_FILE))


def load_value_head(model: nn.Module, folder: str | Path) -> None:
    """Read `value_head.safetensors` back into the model's value head.

    Raises:
        InputError: the folder holds none; it was not saved by PPOTrainer.
    """
    path = Path(folder, VALUE_HEAD_FILE)
    if not path.is_file():
        raise InputError(f"resume_from_checkpoint: {folder} holds no {VALUE_HEAD_FILE}; was it saved by PPOTrainer?")
    causal_lm_of(model).value_head.load_state_dict(load_file(path))
