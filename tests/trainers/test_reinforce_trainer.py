"""REINFORCETrainer: advantages and loss by hand, RLOO's with leave-one-out, nothing lost between checkpoints."""

from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from hfcourse.errors import InputError
from hfcourse.losses import reinforce_loss
from hfcourse.trainers.reinforce_trainer import REINFORCEConfig, REINFORCETrainer

PROMPTS = ["The red fox", "Mara", "What is the colour of the door?", "Two apples and", "near", "Oakton", "a", "five"]


def vowels(prompts, completions, **columns):
    """A reward that any policy can move: the share of vowels."""
    return [sum(c in "aeiou" for c in text) / (1 + len(text)) for text in completions]


@pytest.fixture
def make_trainer(tiny_llama, tiny_tokenizer, tmp_path):
    def make(
        model=None,
        reward_funcs=vowels,
        rows=None,
        peft_config=None,
        ref_model=None,
        trainer_class=REINFORCETrainer,
        config_class=REINFORCEConfig,
        **overrides,
    ):
        settings = dict(
            output_dir=str(tmp_path / "reinforce"),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_completion_length=6,
            max_steps=4,
            learning_rate=1e-3,
            beta=0.1,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            per_device_eval_batch_size=4,
        )
        reference = {} if ref_model is None else {"ref_model": ref_model}
        return trainer_class(
            tiny_llama(0) if model is None else model,
            reward_funcs,
            config_class(**{**settings, **overrides}),
            Dataset.from_list(rows or [{"prompt": p} for p in PROMPTS]),
            processing_class=tiny_tokenizer,
            peft_config=peft_config,
            **reference,
        )

    return make


@pytest.fixture
def moved_reference(tiny_llama):
    """A reference that differs from the policy, so that the KL penalty is not 0."""
    reference, generator = tiny_llama(0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return reference


def rollout_of(trainer):
    trainer.model.train()
    return trainer._prepare_inputs([{"prompt": p} for p in PROMPTS]), trainer._rollout


def history(trainer, name):
    return [log[name] for log in trainer.state.log_history if name in log]


def given(trainer):
    """A rollout of four completions with rewards -3, 0, 1, 2; the second and fourth never ended."""
    eos, texts = trainer.processing_class.eos_token_id, ["w", "x", "y", "z"]
    trainer._generate = lambda prompts: ([[5]] * 4, [[9, eos], [9, 10], [9, 10, eos], [9, 9, 9]], texts)
    return trainer._generate_and_score_completions([{"prompt": "a"}] * 4)


def four(prompts, completions, **columns):
    return [-3.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("none", [-3, 0, 1, 2]),
        ("mean", [-3, 0, 1, 2]),  # their mean is 0
        ("leave_one_out", [-3, 3, -1, 1]),
    ],
)
def test_returns_minus_the_baseline(make_trainer, baseline, expected):
    """β = 0, so R = RM. In pairs, each answer's baseline is its sibling's return: -3 - 0, 0 + 3, 1 - 2, 2 - 1."""
    trainer = make_trainer(reward_funcs=four, beta=0.0, baseline=baseline, num_generations=2)
    rollout = given(trainer)
    assert rollout["advantages"][:, 0].tolist() == pytest.approx(expected)
    assert (rollout["advantages"][rollout["completion_mask"] == 0] == 0).all()


def test_the_mean_return_of_the_rollout_is_subtracted(make_trainer):
    """Missing EOS costs 2: returns -3, -2, 1, 0, mean -1."""
    rollout = given(make_trainer(reward_funcs=four, beta=0.0, missing_eos_penalty=2.0))
    assert rollout["advantages"][:, 0].tolist() == pytest.approx([-2, -1, 2, 1])


def test_normalized_advantages_have_deviation_one(make_trainer):
    """Returns -3, 0, 1, 2: mean 0, variance 14/4."""
    rollout = given(make_trainer(reward_funcs=four, beta=0.0, normalize_advantages=True))
    assert rollout["advantages"][:, 0].tolist() == pytest.approx([r / 3.5**0.5 for r in (-3, 0, 1, 2)], rel=1e-5)


def test_the_kl_penalty_of_the_whole_answer_is_in_the_return(make_trainer, moved_reference):
    """R(s) = RM(s) - β Σ_t (log π - log π_ref): the notes' (2.1)."""
    trainer = make_trainer(ref_model=moved_reference, baseline="none", beta=0.3, reward_funcs=four)
    rollout = given(trainer)
    ref_logps = trainer._forward_in_batches(trainer.ref_model, rollout)["logps"].detach()
    log_ratios = (rollout["old_per_token_logps"] - ref_logps).sum(1)
    torch.testing.assert_close(rollout["advantages"][:, 0], torch.tensor(four(0, 0)) - 0.3 * log_ratios)
    assert log_ratios.abs().min() > 0.01


def test_a_truncated_answer_left_out_of_the_loss_still_counts_in_the_baseline(make_trainer):
    settings = dict(beta=0.0, baseline="leave_one_out", num_generations=2, mask_truncated_completions=True)
    trainer = make_trainer(reward_funcs=four, **settings)
    rollout = given(trainer)
    assert rollout["completion_mask"].sum(1).tolist() == [2, 0, 3, 0]
    assert rollout["advantages"][[0, 2], 0].tolist() == pytest.approx([-3, -1])


def test_loss_is_the_pure_function_on_the_batch(make_trainer):
    """The mean over the completions of the whole step: this micro-batch is one of two."""
    trainer = make_trainer()
    batch, _ = rollout_of(trainer)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(1.1)
    logps = trainer._forward(trainer.model, batch)["logps"]
    expected = reinforce_loss(logps, batch["advantages"], batch["completion_mask"]).sum() / 8
    torch.testing.assert_close(trainer._compute_loss(trainer.model, batch), expected)


def gradient_of_one_step(trainer, rollout):
    trainer.model.zero_grad()
    for batch in trainer._split_into_updates(rollout):
        trainer._compute_loss(trainer.model, batch).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_accumulation_of_8x1_equals_1x8(make_trainer):
    """Ragged rows: an answer weighs the same however the rollout is split into micro-batches."""
    whole = make_trainer(per_device_train_batch_size=8, gradient_accumulation_steps=1)
    parts = make_trainer(per_device_train_batch_size=1, gradient_accumulation_steps=8)
    generated = [[5, 6], [7]] * 4, [[9] * (1 + i % 5) for i in range(8)], ["aeiou"[: i % 5] + "xyz" for i in range(8)]
    whole._generate = lambda prompts: generated
    _, rollout = rollout_of(whole)
    torch.testing.assert_close(
        gradient_of_one_step(whole, rollout), gradient_of_one_step(parts, rollout), atol=1e-6, rtol=1e-4
    )


def ours_and_trls(make_trainer, tiny_llama_dir, accumulation=1, peft=False, **overrides):
    """Both trainers with the same weights and seeds, trained, and their trainable parameters by name."""
    settings = dict(
        model=tiny_llama_dir,  # TRL loads its reference by the model's name
        rows=[{"prompt": f"{p} {i}"} for i in range(2) for p in PROMPTS],  # one epoch: the next is in another order
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        num_generations=2,
        beta=0.2,
        optim="sgd",
        learning_rate=0.5,
        max_grad_norm=0.0,
        peft_config=LoraConfig(r=2, task_type="CAUSAL_LM") if peft else None,
    )
    ours = make_trainer(baseline="leave_one_out", **settings, **overrides)
    theirs = make_trainer(trainer_class=trl.RLOOTrainer, config_class=trl.RLOOConfig, **settings, **overrides)
    trained = [{n: p for n, p in t.model.named_parameters() if p.requires_grad} for t in (ours, theirs)]
    with torch.no_grad():
        for (name, p), q in zip(trained[0].items(), trained[1].values(), strict=True):
            if "lora_" in name:  # drawn anew by each, and B is 0
                p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
                q.copy_(p)
    for trainer in (ours, theirs):
        torch.manual_seed(3)
        trainer.train()
    return ours, theirs, trained


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_leave_one_out_is_trls_rloo(make_trainer, tiny_llama_dir, accumulation, peft):
    """The same completions in the same order: gradient norms, rewards, KL, entropies and the parameters of three
    steps equal TRL's to float32 rounding. (Its loss is another number: that of ratios, not of log-probs; its entropy
    is a mean of the micro-batches' means, ours of the step's tokens.)"""
    ours, theirs, trained = ours_and_trls(make_trainer, tiny_llama_dir, accumulation, peft, max_steps=3)
    for a, b in zip(ours.state.log_history[:3], theirs.state.log_history[:3], strict=True):
        names = ("reward", "kl", "completions/mean_length", "rewards/vowels/mean", *["entropy"][accumulation > 1 :])
        assert {n: a[n] for n in names} == pytest.approx({n: b[n] for n in names}, abs=1e-5, rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    for (name, p), q in zip(trained[0].items(), trained[1].values(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-5, rtol=1e-4, msg=name)


def test_normalized_it_is_rloo_up_to_the_deviation(make_trainer, tiny_llama_dir):
    """We divide 8 advantages by their biased deviation, TRL by (the unbiased one + 1e-4): gradients √(8/7) apart."""
    ours, theirs, _ = ours_and_trls(make_trainer, tiny_llama_dir, max_steps=1, normalize_advantages=True)
    ratio = history(ours, "grad_norm")[0] / history(theirs, "grad_norm")[0]
    assert ratio == pytest.approx((8 / 7) ** 0.5, rel=2e-3)


def test_first_ratio_is_one_and_training_moves_the_reward(make_trainer):
    trainer = make_trainer(max_steps=40, learning_rate=5e-3, beta=0.0)
    trainer.train()
    assert history(trainer, "ratio_at_step0") == pytest.approx([1.0] * 40, abs=2e-5)
    rewards = history(trainer, "reward")
    assert sum(rewards[-10:]) > sum(rewards[:10])


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, task_type="CAUSAL_LM")], ids=["full", "lora"])
def test_resume_equals_no_kill(make_trainer, tmp_path, peft_config):
    """Bit for bit: parameters and logs; 16 prompts are two rollouts an epoch, killed inside the second epoch."""
    rows = [{"prompt": f"{p} {i}"} for i in range(2) for p in PROMPTS]
    settings = dict(max_steps=4, rows=rows, peft_config=peft_config, save_strategy="steps", save_steps=3)
    straight = make_trainer(output_dir=str(tmp_path / "a"), **settings)
    straight.train()
    resumed = make_trainer(output_dir=str(tmp_path / "b"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    for (name, p), q in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    for name in ("reward", "kl", "entropy"):
        assert history(straight, name) == history(resumed, name)


def test_saved_model_loads_back(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    ids = torch.tensor([[5, 6, 7]])
    trainer.model.eval()
    assert torch.equal(loaded(ids).logits, trainer.model(ids).logits)
    assert sorted(p.name for p in Path(tmp_path, "saved").glob("*.safetensors")) == ["model.safetensors"]


def test_evaluation_reports_reward_and_kl(make_trainer):
    """Five prompts in batches of four: the last batch is no whole group of two."""
    trainer = make_trainer(baseline="leave_one_out", num_generations=2, num_generations_eval=1)
    metrics = trainer.evaluate(Dataset.from_list([{"prompt": p} for p in PROMPTS[:5]]))
    assert metrics["eval_kl"] == pytest.approx(0, abs=1e-6)
    assert 0 < metrics["eval_reward"] < 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(rows=[{"text": "a"}]), "no column 'prompt'"),
        (dict(rows=[{"prompt": "The red fox " * 80}] * 8), "row 0 has .* tokens"),
        (dict(baseline="median"), "baseline=median"),
        (dict(baseline="leave_one_out"), "leave_one_out needs at least 2"),
        (dict(num_iterations=2), "2 updates a rollout"),
        (dict(steps_per_generation=4), "2 updates a rollout"),
        (dict(epsilon=0.1), "no ratio to clip"),
        (dict(top_k=5), "top_k"),
    ],
)
def test_bad_input_is_an_error_before_the_first_step(make_trainer, overrides, message):
    with pytest.raises(InputError, match=message):
        make_trainer(**overrides)
