"""Rollouts as tensors, rewards that are checked, checkpoints at the end of a rollout."""

import asyncio

import pytest
import torch
from transformers import TrainerControl, TrainerState

from hfcourse.errors import InputError
from hfcourse.trainers.rewards import checked, load_reward_funcs
from hfcourse.trainers.rollout import EpochRepeatSampler, model_inputs, pad_rollout, split, trim
from hfcourse.trainers.rollout_callbacks import SaveOnRolloutBoundary
from hfcourse.trainers.rollout_config import RolloutConfig


def padded():
    rollout = pad_rollout([[5, 6, 7], [8]], [[9], [10, 0, 11]], pad_id=0)
    return {**rollout, "attention_to_completion": rollout["completion_mask"].clone()}


def test_prompts_end_and_completions_begin_in_one_column():
    rollout = padded()
    assert rollout["prompt_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert rollout["prompt_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert rollout["completion_ids"].tolist() == [[9, 0, 0], [10, 0, 11]]
    assert rollout["completion_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]  # the 0 that was chosen counts


def test_positions_count_real_tokens_and_prompts_are_not_scored():
    inputs = model_inputs(padded())
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 3, 3, 3], [0, 0, 0, 1, 2, 3]]
    assert inputs["labels"].tolist() == [[-100, -100, -100, 9, -100, -100], [-100, -100, -100, 10, 0, 11]]


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(InputError, match="row 1 of the batch has no tokens"):
        pad_rollout([[1], []], [[2], [3]], 0)


def test_trim_drops_only_what_is_padding_in_every_row():
    rows = {name: x[1:] for name, x in padded().items()}
    trimmed = trim(rows)
    assert trimmed["prompt_ids"].tolist() == [[8]]
    assert trimmed["completion_ids"].tolist() == [[10, 0, 11]]


def test_split_is_a_partition():
    rollout = pad_rollout([[i + 1] for i in range(6)], [[10 + i] * (1 + i % 3) for i in range(6)], 0)
    rollout["attention_to_completion"] = rollout["completion_mask"]
    parts = split(rollout, 3)
    assert [len(part["prompt_ids"]) for part in parts] == [2, 2, 2]
    assert sorted(i for part in parts for i in part["prompt_ids"][:, -1].tolist()) == [1, 2, 3, 4, 5, 6]
    for part in parts:  # a row stays one row
        assert torch.equal(part["completion_ids"][:, 0], part["prompt_ids"][:, -1] + 9)


def test_checked_rewards_pass_none_and_stop_at_nan():
    def good(**columns):
        return [1.0, None]

    async def bad(**columns):
        return [1.0, float("nan")]

    assert checked(good)(completions=["a", "b"]) == [1.0, None]
    assert checked(good).__name__ == "good"
    assert asyncio.iscoroutinefunction(checked(bad))
    with pytest.raises(InputError, match="'bad': row 1 of the batch got nan"):
        asyncio.run(checked(bad)(completions=["a", "b"]))


def test_reward_functions_by_dotted_path():
    assert load_reward_funcs(["a/model"], ["math.sqrt"])[0] == "a/model"
    with pytest.raises(InputError, match=r"cannot import 'no\.such'"):
        load_reward_funcs(None, ["no.such"])
    with pytest.raises(InputError, match="give --reward_model_path"):
        load_reward_funcs(None, None)


def test_a_due_checkpoint_waits_for_the_rollouts_end():
    """Four updates a rollout, saves due at 3, 6 and 10: they fall on 4, 8 and 12."""
    callback, saved = SaveOnRolloutBoundary(4), []
    for step in range(1, 13):
        control = TrainerControl(should_save=step in (3, 6, 10))
        if callback.on_step_end(None, TrainerState(global_step=step), control).should_save:
            saved.append(step)
    assert saved == [4, 8, 12]


def test_the_order_of_an_epoch_depends_on_the_epoch_alone():
    epoch = [0.0]
    sampler = EpochRepeatSampler(list(range(8)), 1, 4, 1, seed=3, epoch=lambda: epoch[0])
    first, again = list(sampler), list(sampler)
    epoch[0] = 1.5
    assert first == again != list(sampler)


def test_batch_arithmetic():
    """2 x 4 = 8 completions a rollout; 3 epochs of 4 micro-batches, 2 to an update: 6 updates."""
    args = RolloutConfig(
        "x",
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=2,
        steps_per_generation=4,
        gradient_accumulation_steps=2,
        num_iterations=3,
    )
    assert (args.generation_batch_size, args.updates_per_rollout, args.num_generations) == (8, 6, 1)
    with pytest.raises(InputError, match="same thing"):
        RolloutConfig("x", use_cpu=True, bf16=False, generation_batch_size=8, steps_per_generation=4)
