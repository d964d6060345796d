"""The critic: a linear layer on the policy's trunk or on one of its own, and how it is kept beside the policy."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfcourse.errors import InputError
from hfcourse.models.adapters import VALUE_ADAPTER, add_value_adapter
from hfcourse.models.reward_model import load_reward_model
from hfcourse.models.token_stats import causal_lm_of

VALUE_HEAD_FILE = "value_head.safetensors"
HEAD, TRUNK, ADAPTER = "value_head.", "value_trunk.", f".{VALUE_ADAPTER}."


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


def add_value_head(model: nn.Module, value_model: str | PreTrainedModel | None = None) -> None:
    """Attach a critic to a causal LM (inside its PEFT wrapper, where it has one).

    It is a submodule of the policy because Trainer clips, saves and shards one model only.

    Args:
        model: the policy.
        value_model: None, a [`ValueHead`] on the policy's own hidden states; "adapter", on those of a second adapter
            on the policy's base; a model (or the path of one), on those of its trunk. A reward model's head is taken
            over with it, so that V(s) starts as the reward of what has been said so far.
    """
    policy = causal_lm_of(model)
    trunk_config = policy.config
    if value_model == "adapter":
        add_value_adapter(model)
    elif value_model is not None:
        value_model = load_reward_model(value_model) if isinstance(value_model, str) else value_model
        policy.value_trunk, trunk_config = value_model.base_model.to(policy.device), value_model.config
    policy.value_head = ValueHead(trunk_config.get_text_config().hidden_size).to(policy.device)
    score = getattr(value_model, "score", None)
    if score is not None and "ForSequenceClassification" in str(trunk_config.architectures):
        policy.value_head.weight.data.copy_(score.weight.detach())


def split_value_head(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parts a state dict into (the policy's, the critic's: its head with bare names, its trunk, its adapter)."""
    policy, critic = {}, {}
    for name, tensor in state_dict.items():
        own = _name_in_critic(name)
        if own is None:
            policy[name] = tensor
        else:
            critic[own] = tensor
    return policy, critic


def _name_in_critic(name: str) -> str | None:
    if HEAD in name:
        return name.rpartition(HEAD)[2]
    if TRUNK in name:
        return TRUNK + name.partition(TRUNK)[2]
    return name if ADAPTER in name else None


def save_value_head(critic: dict[str, Tensor], folder: str | Path) -> None:
    """Write `value_head.safetensors` beside the policy, which stays an ordinary model folder."""
    save_file({name: tensor.contiguous() for name, tensor in critic.items()}, Path(folder, VALUE_HEAD_FILE))


@torch.no_grad()
def load_value_head(model: nn.Module, folder: str | Path) -> None:
    """Read `value_head.safetensors` back into the model's critic.

    Raises:
        InputError: the folder holds none, or another kind of critic than the model has.
    """
    path = Path(folder, VALUE_HEAD_FILE)
    if not path.is_file():
        raise InputError(f"resume_from_checkpoint: {folder} holds no {VALUE_HEAD_FILE}; was it saved by PPOTrainer?")
    _, critic = split_value_head(model.state_dict())
    saved = load_file(path)
    if critic.keys() != saved.keys():
        raise InputError(f"value_model: {path} holds another kind of critic; resume with the same --value_model")
    for name, tensor in critic.items():
        tensor.copy_(saved[name])
