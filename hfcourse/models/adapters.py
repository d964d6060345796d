"""Several adapters on one base model: policy, critic and reward model share its weights; none is the reference."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, load_peft_weights
from torch import Tensor, nn

from hfcourse.errors import InputError

VALUE_ADAPTER = "value"
HEAD = "score.weight"
REWARD_MEAN = "reward_mean.json"


@contextmanager
def active_adapter(model: nn.Module, name: str | None) -> Iterator[None]:
    """Forward passes inside go through the adapter `name` alone, or through none.

    PEFT's own `set_adapter` and `disable_adapter` also decide what is trained: after them the critic's adapter would
    stand still. Here only the path of the forward pass changes.
    """
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    saved = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = name is None
            if name is not None:
                layer._active_adapter = [name]
        yield
    finally:
        for layer, (active, disabled) in zip(layers, saved, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def add_value_adapter(policy: PeftModel) -> None:
    """A second adapter of the policy's shape, trained beside it, through which the critic reads.

    Raises:
        InputError: the policy has no adapter.
    """
    if not hasattr(policy, "peft_config"):
        raise InputError("value_model: adapter needs a policy with an adapter; give --use_peft, or a model of its own")
    policy.add_adapter(VALUE_ADAPTER, policy.peft_config[policy.active_adapter])
    for name, parameter in policy.named_parameters():
        if f".{VALUE_ADAPTER}." in name:
            parameter.requires_grad_(True)
    policy.get_base_model().value_adapter = VALUE_ADAPTER


def is_reward_adapter(path: str) -> bool:
    """Whether a folder holds the adapter of a reward model, not a whole model."""
    return (Path(path) / "adapter_config.json").is_file()


def add_reward_adapter(policy: PeftModel, path: str, name: str) -> nn.Linear:
    """Load the adapter of a reward model onto the policy's base, frozen.

    Returns:
        Its head: hidden state (..., d) -> reward (..., heads).

    Raises:
        InputError: the policy has no adapter, so that the base would be trained away under the reward model; or the
            reward model was trained on another base.
    """
    remedy = "merge it into its base (recipes/reward.py does), and give the merged folder"
    if not hasattr(policy, "peft_config"):
        raise InputError(f"reward_model_path: '{path}' is an adapter, which needs a policy with one; or {remedy}")
    config = PeftConfig.from_pretrained(path)
    ours = policy.peft_config[policy.active_adapter].base_model_name_or_path
    theirs = config.base_model_name_or_path
    if ours and theirs and Path(ours).resolve() != Path(theirs).resolve():
        raise InputError(f"reward_model_path: '{path}' belongs to '{theirs}', the policy to '{ours}'; {remedy}")
    weights = load_peft_weights(path, device="cpu")
    heads = [key for key in weights if key.endswith(HEAD)]
    if not heads:
        raise InputError(f"reward_model_path: '{path}' holds no {HEAD}; was it saved by a reward trainer?")
    head_weight = weights.pop(heads[0])
    config.modules_to_save, config.inference_mode = None, True
    policy.add_adapter(name, config)
    set_peft_model_state_dict(policy, weights, adapter_name=name)
    head = nn.Linear(*head_weight.T.shape, bias=False)
    head.weight = nn.Parameter(head_weight, requires_grad=False)
    return head.to(policy.device)


def save_reward_mean(model: nn.Module, folder: str | Path) -> None:
    """Write a reward model's `config.reward_mean` beside its adapter, whose folder has no config to hold it."""
    mean = getattr(model.config, "reward_mean", None)
    if hasattr(model, "peft_config") and mean is not None:
        (Path(folder) / REWARD_MEAN).write_text(json.dumps({"reward_mean": mean}) + "\n", encoding="utf-8")


def read_reward_mean(folder: str | Path) -> float | None:
    """What [`save_reward_mean`] wrote; None where nothing was measured."""
    path = Path(folder) / REWARD_MEAN
    return json.loads(path.read_text(encoding="utf-8"))["reward_mean"] if path.is_file() else None


@contextmanager
def without_adapters(model: nn.Module, names: set[str]) -> Iterator[None]:
    """Inside, `save_pretrained` does not know of these adapters: they are saved elsewhere, or were read from there."""
    configs = getattr(model, "peft_config", {})
    hidden = {name: configs.pop(name) for name in names & configs.keys()}
    try:
        yield
    finally:
        configs.update(hidden)


class RewardAdapter:
    """A reward model that is an adapter on the policy's base, with the face of a sequence classifier.

    Args:
        path: folder of the adapter, as a reward trainer saved it.
    """

    def __init__(self, path: str):
        self.path = path

    def attach(self, policy: PeftModel, name: str) -> None:
        """Load it onto the policy's base; the policy knows [`hfcourse.models.token_stats.add_token_stats_head`]."""
        self.policy, self.name, self.head = policy, name, add_reward_adapter(policy, self.path, name)
        self.config = copy.copy(policy.get_base_model().config)  # its own: who scores sets its pad token
        self.config._name_or_path, self.config.reward_mean = self.path, read_reward_mean(self.path)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def training(self) -> bool:
        return self.policy.training

    def train(self, mode: bool = True):
        return self.policy.train(mode)

    def eval(self):
        return self.train(False)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        with active_adapter(self.policy, self.name):
            hidden = self.policy(input_ids=input_ids, attention_mask=attention_mask, hidden_states=True)
        last = attention_mask.sum(1) - 1  # padded on the right
        hidden = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return SimpleNamespace(logits=self.head(hidden.to(self.head.weight.dtype)))
