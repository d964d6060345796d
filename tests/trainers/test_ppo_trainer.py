"""PPOTrainer: what its rollout and its loss are made of, and that nothing is lost between two checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from hfcourse.errors import InputError
from hfcourse.losses import ppo_policy_loss, ppo_value_loss
from hfcourse.models.value_head import VALUE_HEAD_FILE
from hfcourse.rl import generalized_advantage_estimation, kl_penalized_rewards
from tests.trainers.rollouts import PROMPTS, history, rollout_of, vowels


@pytest.fixture
def make_trainer(make_ppo):
    return make_ppo


def test_first_ratio_is_one_and_training_moves_the_reward(make_trainer):
    trainer = make_trainer(max_steps=40, learning_rate=5e-3, beta=0.0)
    trainer.train()
    assert history(trainer, "ratio_at_step0") == pytest.approx([1.0] * 10, abs=2e-5)
    rewards = history(trainer, "reward")
    assert sum(rewards[-3:]) > sum(rewards[:3])


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_gpt2"])
def test_rollout_scores_equal_a_forward_of_each_row_alone(make_trainer, architecture, request):
    """Left padding, absolute positions and batch mates change nothing: each row, unpadded, has the same log-probs."""
    trainer = make_trainer(model=request.getfixturevalue(architecture)(3), temperature=0.7)
    _, rollout = rollout_of(trainer)
    trainer.model.eval()
    for i in range(len(PROMPTS)):
        prompt = rollout["prompt_ids"][i][rollout["prompt_mask"][i].bool()]
        completion = rollout["completion_ids"][i][rollout["completion_mask"][i].bool()]
        logits = trainer.model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        logps = torch.log_softmax(logits / 0.7, -1).gather(1, completion[:, None])[:, 0]
        torch.testing.assert_close(rollout["old_per_token_logps"][i, : len(completion)], logps, atol=2e-5, rtol=1e-5)
        assert rollout["old_per_token_logps"][i, len(completion) :].abs().sum() == 0


def test_advantages_are_gae_of_the_penalized_rewards(make_trainer):
    """r_t = -β k1 (+ score on the last token); with V = 0 at the start, λ = 1: A_t = R_t = Σ_{u≥t} r_u."""
    reference = make_trainer().model
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    trainer = make_trainer(ref_model=reference, lam=1.0, normalize_advantages=False, missing_eos_penalty=2.0)
    _, rollout = rollout_of(trainer)
    mask = rollout["completion_mask"]
    ref_logps = trainer._forward_in_batches(trainer.ref_model, rollout)["logps"].detach()
    texts = trainer.processing_class.batch_decode(
        [ids[m.bool()] for ids, m in zip(rollout["completion_ids"], mask, strict=True)], skip_special_tokens=True
    )
    last = rollout["completion_ids"].gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
    scores = torch.tensor(vowels(None, texts)) - 2.0 * (last != trainer.processing_class.eos_token_id)
    rewards = kl_penalized_rewards(scores, rollout["old_per_token_logps"], ref_logps, mask, 0.1)
    to_go = rewards.flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(rollout["advantages"], to_go, atol=1e-5, rtol=1e-5)
    assert (rollout["old_per_token_logps"] - ref_logps).abs().max() > 0.01  # the penalty is not 0 by accident
    expected, _ = generalized_advantage_estimation(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)
    torch.testing.assert_close(rollout["advantages"], expected, atol=1e-5, rtol=1e-5)


def test_loss_is_the_pure_functions_on_the_batch(make_trainer):
    trainer = make_trainer(vf_coef=0.3)
    batch, _ = rollout_of(trainer)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(1.1)
        trainer.model.value_head.bias.fill_(0.5)
    stats = trainer._forward(trainer.model, batch)
    policy, _ = ppo_policy_loss(stats["logps"], batch["old_per_token_logps"], batch["advantages"], 0.2)
    value, _ = ppo_value_loss(stats["values"], batch["old_values"], batch["returns"], 0.2)
    expected = ((policy + 0.3 * value) * batch["completion_mask"]).sum() / batch["num_items"]
    torch.testing.assert_close(trainer._compute_loss(trainer.model, batch), expected)
    assert (stats["logps"] - batch["old_per_token_logps"]).abs().max() > 1e-3


def gradient_of_one_epoch(trainer, rollout):
    trainer.model.zero_grad()
    for batch in trainer._split_into_updates(rollout):
        trainer._compute_loss(trainer.model, batch).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_accumulation_of_8x1_equals_1x8(make_trainer):
    """Ragged rows: a token weighs the same however the rollout is split into micro-batches."""
    whole = make_trainer(per_device_train_batch_size=8, steps_per_generation=1, gradient_accumulation_steps=1)
    parts = make_trainer(per_device_train_batch_size=1, steps_per_generation=8, gradient_accumulation_steps=8)
    generated = [[5, 6], [7]] * 4, [[9] * (1 + i % 5) for i in range(8)], ["aeiou"[: i % 5] + "xyz" for i in range(8)]
    whole._generate = lambda prompts: generated
    _, rollout = rollout_of(whole)
    assert len(set(rollout["completion_mask"].sum(1).tolist())) > 1
    torch.testing.assert_close(
        gradient_of_one_epoch(whole, rollout), gradient_of_one_epoch(parts, rollout), atol=1e-6, rtol=1e-4
    )


def test_updates_per_rollout_are_counted_and_each_epoch_is_a_new_permutation(make_trainer):
    """2 epochs x 4 micro-batches / 2 accumulated = 4 updates a rollout; all rows once an epoch, in another order."""
    trainer = make_trainer()
    assert trainer.args.updates_per_rollout == 4
    orders = []
    for step in range(8):
        trainer._step = step
        trainer.model.train()
        batch = trainer._prepare_inputs([{"prompt": p} for p in PROMPTS])
        orders.append([tuple(ids) for ids in batch["prompt_ids"].tolist()])
    first, second = [row for o in orders[:4] for row in o], [row for o in orders[4:] for row in o]
    strip = lambda rows: sorted(tuple(t for t in row if t != trainer.processing_class.pad_token_id) for row in rows)  # noqa: E731
    assert strip(first) == strip(second)
    assert first != second


def test_saved_policy_is_an_ordinary_model_and_the_critic_lies_beside(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / VALUE_HEAD_FILE).is_file()
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    assert json.loads(Path(tmp_path, "saved", "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    ids = torch.tensor([[5, 6, 7]])
    trainer.model.eval()
    assert torch.equal(loaded(ids).logits, trainer.model(ids).logits)
    assert loaded.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > 3


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, task_type="CAUSAL_LM")], ids=["full", "lora"])
def test_resume_equals_no_kill(make_trainer, tmp_path, peft_config):
    """Bit for bit: parameters, critic and logs, in the middle of an epoch and at its end.

    16 prompts are two rollouts an epoch, of 4 updates each; save_steps=3 is moved to the rollout's end.
    """
    settings = dict(
        max_steps=16,
        rows=[{"prompt": f"{p} {i}"} for i in range(2) for p in PROMPTS],
        peft_config=peft_config,
        save_strategy="steps",
        save_steps=3,
    )
    straight = make_trainer(output_dir=str(tmp_path / "a"), **settings)
    straight.train()
    assert sorted(p.name for p in Path(tmp_path, "a").glob("checkpoint-*")) == [
        "checkpoint-12",
        "checkpoint-16",
        "checkpoint-4",
        "checkpoint-8",
    ]
    for step in (4, 8):
        resumed = make_trainer(output_dir=str(tmp_path / f"b{step}"), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{step}"))
        for (name, p), q in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(p, q), name
        for name in ("reward", "kl", "loss/policy", "loss/value"):
            assert history(straight, name) == history(resumed, name)


def test_lora_reference_is_the_model_without_its_adapter(make_trainer, tiny_llama):
    trainer = make_trainer(peft_config=LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM"))
    assert trainer.ref_model is None
    _, rollout = rollout_of(trainer)
    plain = make_trainer(model=tiny_llama(0))
    expected = plain._forward_in_batches(plain.ref_model, rollout)["logps"]
    torch.testing.assert_close(trainer._score_rollout(rollout)[1], expected.detach())
    trainable = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {name for name in trainable if "lora_" not in name} == {
        "base_model.model.value_head.weight",
        "base_model.model.value_head.bias",
    }


def test_pad_equal_to_eos_keeps_the_eos_action(make_trainer, tiny_tokenizer):
    """The EOS that the policy chose is in the mask although it is the pad token too."""
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = make_trainer()
    trainer.processing_class = trainer._tokenizer = tokenizer
    eos = tokenizer.eos_token_id
    trainer._generate = lambda prompts: ([[5, 6], [7]], [[8, eos], [9, 10, 11]], ["x", "y"])
    rollout = trainer._generate_and_score_completions([{"prompt": "a"}, {"prompt": "b"}])
    assert rollout["completion_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert rollout["old_per_token_logps"][0, 1] < 0


def test_dropout_is_off(make_trainer, tiny_gpt2):
    trainer = make_trainer(model=tiny_gpt2(0, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5), max_steps=1)
    trainer.train()
    assert history(trainer, "ratio_at_step0") == pytest.approx([1.0], abs=2e-5)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (lambda n: [float("nan")] * n, "row 0 of the batch got nan"),
        (lambda n: [0.0, float("inf")] * (n // 2), "row 1"),
    ],
)
def test_rewards_that_are_not_finite_stop_the_run(make_trainer, rewards, message):
    def reward(prompts, completions, **columns):
        return rewards(len(prompts))

    with pytest.raises(InputError, match=message):
        make_trainer(reward_funcs=reward).train()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(rows=[{"text": "a"}]), "no column 'prompt'"),
        (dict(rows=[{"prompt": "The red fox " * 80}] * 8), "row 0 has .* tokens"),
        (dict(top_p=0.9), "top_p"),
        (dict(generation_kwargs={"min_new_tokens": 4}), "min_new_tokens"),
        (dict(gradient_accumulation_steps=3), "steps_per_generation=4 must be a multiple"),
        (dict(num_generations=3), "must be a multiple of num_generations"),
    ],
)
def test_bad_input_is_an_error_before_the_first_step(make_trainer, overrides, message):
    with pytest.raises(InputError, match=message):
        make_trainer(**overrides)


def test_evaluation_reports_reward_and_kl(make_trainer):
    trainer = make_trainer()
    metrics = trainer.evaluate(Dataset.from_list([{"prompt": p} for p in PROMPTS]))
    assert {"eval_reward", "eval_kl", "eval_entropy"} <= set(metrics)
    assert metrics["eval_kl"] == pytest.approx(0, abs=1e-6)


def test_the_completions_table_shows_the_mean_advantage_of_each_row(make_trainer):
    trainer = make_trainer()
    _, rollout = rollout_of(trainer)
    mask = rollout["completion_mask"]
    expected = ((rollout["advantages"] * mask).sum(1) / mask.sum(1)).tolist()
    assert list(trainer._logs["advantages"]) == pytest.approx(expected, abs=1e-6)
    assert len(trainer._logs["completion"]) == len(PROMPTS)


def given(trainer):
    """A rollout of four completions with rewards -3, 0, 1, 2; the second and fourth never ended."""
    eos, texts = trainer.processing_class.eos_token_id, ["w", "x", "y", "z"]
    trainer._generate = lambda prompts: ([[5]] * 4, [[9, eos], [9, 10], [9, 10, eos], [9, 9, 9]], texts)
    return trainer._generate_and_score_completions([{"prompt": "a"}] * 4)


def four(prompts, completions, **columns):
    return [-3.0, 0.0, 1.0, 2.0]


def test_advantages_are_whitened_over_the_tokens_that_count(make_trainer):
    rollout = given(make_trainer(reward_funcs=four))
    counted = rollout["advantages"][rollout["completion_mask"].bool()]
    assert counted.mean().item() == pytest.approx(0, abs=1e-5)
    assert counted.var(unbiased=False).item() == pytest.approx(1, abs=1e-4)


def test_reward_clip_range_clips_the_score_before_the_penalty(make_trainer):
    """λ = 1, β = 0, V = 0: every return of a row is its score, clipped to [-1, 1]."""
    settings = dict(reward_funcs=four, beta=0.0, lam=1.0, normalize_advantages=False)
    rollout = given(make_trainer(**settings, reward_clip_range=[-1.0, 1.0]))
    assert rollout["returns"][:, 0].tolist() == [-1, 0, 1, 1]


def test_whiten_rewards_divides_by_the_deviation_of_all_token_rewards(make_trainer):
    """Token rewards are 0 but for the last of each row: -3, 0, 1, 2 among 10 tokens; mean 0, variance 14/10."""
    rollout = given(
        make_trainer(reward_funcs=four, beta=0.0, lam=1.0, normalize_advantages=False, whiten_rewards=True)
    )
    expected = [score / 1.4**0.5 for score in (-3, 0, 1, 2)]
    assert rollout["returns"][:, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_truncated_completions_can_be_left_out_of_the_loss(make_trainer):
    rollout = given(make_trainer(reward_funcs=four, mask_truncated_completions=True))
    assert rollout["completion_mask"].sum(1).tolist() == [2, 0, 3, 0]
    assert rollout["attention_to_completion"].sum(1).tolist() == [2, 2, 3, 3]
    assert rollout["advantages"][1].abs().sum() == 0


def test_entropy_bonus_lowers_the_loss_by_its_mean(make_trainer):
    """The entropy of each token that counts, times the coefficient, over their number."""
    trainer = make_trainer(entropy_coef=0.5)
    batch, _ = rollout_of(trainer)
    with_bonus = trainer._compute_loss(trainer.model, batch)
    entropy = trainer._forward(trainer.model, batch)["entropy"]
    trainer.args.entropy_coef = 0.0
    bonus = 0.5 * (entropy * batch["completion_mask"]).sum() / batch["num_items"]
    torch.testing.assert_close(trainer._compute_loss(trainer.model, batch) - with_bonus, bonus, atol=1e-5, rtol=1e-5)
    assert bonus > 0.1
