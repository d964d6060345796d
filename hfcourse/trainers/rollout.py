"""Rollouts: what a policy wrote, as tensors; who scores it; and when a checkpoint may be written."""

import functools
import math
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.utils import RepeatSampler, get_callable_name, is_async_callable

from hfcourse.errors import InputError
from hfcourse.models.reward_model import score


def pad_rollout(prompt_ids: list[list[int]], completion_ids: list[list[int]], pad_id: int) -> dict[str, Tensor]:
    """Prompts padded on the left, completions on the right, so that every completion starts in the same column.

    Returns:
        prompt_ids, prompt_mask (B, P) and completion_ids, completion_mask (B, C). The masks are data from here on: a
        pad token that the policy chose itself (pad = EOS) counts like any other.

    Raises:
        InputError: a prompt without tokens; the policy would have no state to start from.
    """
    for i, ids in enumerate(prompt_ids):
        if not ids:
            raise InputError(f"prompt: row {i} of the batch has no tokens; start prompts with the BOS token")
    completion_rows = [torch.tensor(ids) for ids in completion_ids]
    reversed_rows = [torch.tensor(ids[::-1]) for ids in prompt_ids]
    return {
        "prompt_ids": _pad(reversed_rows, pad_id).flip(1),
        "prompt_mask": _pad([torch.ones_like(row) for row in reversed_rows], 0).flip(1),
        "completion_ids": _pad(completion_rows, pad_id),
        "completion_mask": _pad([torch.ones_like(row) for row in completion_rows], 0),
    }


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


def model_inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs of one forward pass that scores the completions (see [`hfcourse.models.token_stats`]).

    Positions count real tokens: a model with absolute positions would otherwise see the left padding.
    """
    input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention_mask = torch.cat([batch["prompt_mask"], batch["attention_to_completion"]], 1)
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    labels[:, : batch["prompt_ids"].shape[1]] = -100
    position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids, "labels": labels}


def trim(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops the columns that are padding in every row: on the left of the prompts, on the right of the completions."""
    prompt_length = int(batch["prompt_mask"].sum(1).max())
    length = int(batch["attention_to_completion"].sum(1).max())
    start = batch["prompt_ids"].shape[1] - prompt_length
    return {name: x[:, start:] if name.startswith("prompt_") else x[:, :length] for name, x in batch.items()}


def split(rollout: dict[str, Tensor], num_batches: int) -> list[dict[str, Tensor]]:
    """A fresh random partition of the rollout into equal micro-batches, each trimmed."""
    order = torch.randperm(len(rollout["completion_ids"])).to(rollout["completion_ids"].device)
    return [trim({name: x[rows] for name, x in rollout.items()}) for rows in order.chunk(num_batches)]


class RewardModelFunction:
    """A reward model as a reward function: reads each answer as it was in training, its EOS included."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int]):
        self.model, self.tokenizer, self.eos_token_ids = model, tokenizer, eos_token_ids
        self.__name__ = model.config._name_or_path.rstrip("/").split("/")[-1] or "reward_model"

    def __call__(self, prompts, completions, completion_ids, **columns) -> list[float]:
        finished = [ids[-1] in self.eos_token_ids for ids in completion_ids]
        return score(self.model, self.tokenizer, prompts, completions, finished)


def checked(reward_func: Callable) -> Callable:
    """The same reward function, which stops the run at a NaN or an infinity: one of them would poison the policy.

    `None` stays what it is in TRL: this function has no opinion on that completion.
    """
    name = get_callable_name(reward_func)

    def check(rewards):
        for i, reward in enumerate(rewards):
            if reward is not None and not math.isfinite(reward):
                raise InputError(f"reward function '{name}': row {i} of the batch got {reward}; it must be finite")
        return rewards

    if is_async_callable(reward_func):

        async def call(*args, **kwargs):
            return check(await reward_func(*args, **kwargs))

    else:

        def call(*args, **kwargs):
            return check(reward_func(*args, **kwargs))

    functools.update_wrapper(call, reward_func)
    call.__name__ = name
    return call


class EpochRepeatSampler(RepeatSampler):
    """TRL's order of prompts, with a shuffle that depends on the epoch alone.

    TRL draws each epoch's shuffle from where the last one left its generator; a resumed run starts that generator
    anew and meets the prompts of another epoch.
    """

    def __init__(self, *args, seed: int, epoch: Callable[[], float], **kwargs):
        super().__init__(*args, seed=seed, **kwargs)
        self.epoch = epoch

    def __iter__(self):
        if self.shuffle:
            self.generator.manual_seed(self.seed + int(self.epoch() or 0))
        yield from super().__iter__()


class SaveOnRolloutBoundary(TrainerCallback):
    """Moves a due checkpoint to the end of the rollout: inside one, the rollout itself would have to be saved too."""

    def __init__(self, updates_per_rollout: int):
        self.updates_per_rollout, self.is_due = updates_per_rollout, False

    def on_step_end(self, args, state, control, **kwargs):
        self.is_due |= control.should_save
        at_boundary = state.global_step % self.updates_per_rollout == 0 or control.should_training_stop
        control.should_save = self.is_due and at_boundary
        self.is_due &= not control.should_save
        return control


def load_reward_funcs(model_paths: list[str] | None, dotted_paths: list[str] | None) -> list[str | Callable]:
    """Reward functions as a command line names them: models by path or Hub id, functions as `module.function`.

    Raises:
        InputError: neither is given, or a function cannot be imported.
    """
    functions = [_import_function(path) for path in dotted_paths or ()]
    if not (model_paths or functions):
        raise InputError("reward: give --reward_model_path, --reward_funcs, or both")
    return [*(model_paths or ()), *functions]


def _import_function(dotted_path: str) -> Callable:
    module, _, name = dotted_path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError) as e:
        raise InputError(f"reward_funcs: cannot import '{dotted_path}': {e}") from e
