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


def by_length(rollout: dict[str, Tensor], groups: Tensor | None = None, group_size: int = 1) -> Tensor:
    """Rows of these groups (of all, when not given), shortest groups first; the rows of a group stay together.

    Args:
        groups: (G,) indices of groups, each of which is `group_size` rows after one another.

    Returns:
        (G · group_size,) indices of rows.
    """
    total = lengths(rollout).cpu().view(-1, group_size).sum(1)
    groups = torch.arange(len(total)) if groups is None else groups
    groups = groups[total[groups].argsort()]
    rows = groups[:, None] * group_size + torch.arange(group_size)
    return rows.flatten().to(rollout["completion_ids"].device)


def split(
    rollout: dict[str, Tensor], num_batches: int, batches_per_update: int = 1, group_size: int = 1
) -> list[dict[str, Tensor]]:
    """A fresh random partition of the rollout into equal micro-batches, each trimmed.

    Chance decides which rows an optimizer step sees; inside the step rows of like length go together, for the loss is
    a sum over the step however it is split, and padding costs time.

    Args:
        group_size: rows after one another that stay so, because they share their prompt's computation.
    """
    order, batches = torch.randperm(len(rollout["completion_ids"])), []  # as many draws, whatever stays together
    order = order[order % group_size == 0] // group_size
    for update in order.chunk(num_batches // batches_per_update):
        rows = by_length(rollout, update, group_size)
        batches += [trim({name: x[own] for name, x in rollout.items()}) for own in rows.chunk(batches_per_update)]
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
