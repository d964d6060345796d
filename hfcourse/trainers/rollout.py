"""Rollouts: what a policy wrote, as tensors, and the order in which it meets its prompts."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.utils import RepeatSampler

from hfcourse.errors import InputError


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


def lengths(batch: dict[str, Tensor]) -> Tensor:
    """(B,), real tokens of each row."""
    return batch["prompt_mask"].sum(1) + batch["attention_to_completion"].sum(1)


def split(rollout: dict[str, Tensor], num_batches: int, batches_per_update: int = 1) -> list[dict[str, Tensor]]:
    """A fresh random partition of the rollout into equal micro-batches, each trimmed.

    Chance decides which rows an optimizer step sees; inside the step rows of like length go together, for the loss is
    a sum over the step however it is split, and padding costs time.
    """
    order, row_lengths = torch.randperm(len(rollout["completion_ids"])), lengths(rollout).cpu()
    batches = []
    for update in order.chunk(num_batches // batches_per_update):
        by_length = update[row_lengths[update].argsort()].to(rollout["completion_ids"].device)
        batches += [
            trim({name: x[rows] for name, x in rollout.items()}) for rows in by_length.chunk(batches_per_update)
        ]
    return batches


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
