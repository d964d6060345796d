"""k completions share their prompt's computation: PPO and REINFORCE learn what they learn without, of fewer tokens."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BloomConfig, BloomForCausalLM, LlamaForSequenceClassification

from hfcourse import PPOConfig, PPOTrainer, REINFORCEConfig, REINFORCETrainer
from hfcourse.trainers import rollout_trainer
from hfcourse.trainers.rollout import by_length, pad_rollout, split
from tests.trainers.rollouts import vowels

# Long enough to be worth sharing, and of several lengths.
ROWS = [
    {"prompt": "The red fox sleeps near the river. " * n + name} for n, name in ((1, "Mara"), (3, "a"), (2, "Oak"))
]
METHODS = {
    "ppo": (PPOTrainer, PPOConfig, dict(steps_per_generation=2, num_iterations=2, entropy_coef=0.1)),
    "reinforce": (REINFORCETrainer, REINFORCEConfig, dict(baseline="leave_one_out")),
}


def lora() -> LoraConfig:
    return LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear")


@pytest.fixture
def make_trainer(tiny_llama, tiny_tokenizer, tmp_path):
    """Six completions a rollout, three to a prompt, in two micro-batches of one update; PPO takes two epochs."""

    def make(method="ppo", model=None, options=None, **overrides):
        trainer_class, config_class, own = METHODS[method]
        settings = dict(
            output_dir=str(tmp_path), per_device_train_batch_size=3, gradient_accumulation_steps=2, num_generations=3,
            max_completion_length=6, max_steps=4, optim="sgd", learning_rate=0.05, beta=0.1, logging_steps=1,
            save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        )  # fmt: skip
        return trainer_class(
            tiny_llama(0) if model is None else model,
            vowels,
            config_class(**{**settings, **own, **overrides}),
            Dataset.from_list(ROWS),
            processing_class=tiny_tokenizer,
            **(options or {}),
        )

    return make


def learnt(trainer) -> tuple[list[dict], torch.Tensor, int]:
    """What was logged, the parameters after it, and the tokens that met the policy's trunk with a gradient to come."""
    tokens = []
    trainer.model.get_input_embeddings().register_forward_hook(
        lambda _m, inputs, _o: tokens.append(inputs[0].numel() * torch.is_grad_enabled())
    )
    trainer.train()
    logs = [{n: x for n, x in log.items() if n != "step_time"} for log in trainer.state.log_history if "loss" in log]
    return logs, torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), sum(tokens)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, "ppo") for kind in ("full", "gpt2", "reference", "lora", "value_adapter", "checkpointing")),
        *((kind, "reinforce") for kind in ("full", "lora")),
    ],
)
def test_the_prompt_is_computed_once_and_nothing_else_changes(make_trainer, kind, method, tiny_llama, tiny_gpt2):
    """Two rollouts of PPO or four of REINFORCE, with and without: every metric and every parameter, to rounding."""
    runs = []
    for shared_prefix in (True, False):
        case = {
            "gpt2": dict(model=tiny_gpt2(0)),
            "reference": dict(options={"ref_model": tiny_llama(1)}),
            "lora": dict(options={"peft_config": lora()}),
            "value_adapter": dict(options={"peft_config": lora()}, value_model="adapter"),
            "checkpointing": dict(gradient_checkpointing=True),
        }.get(kind, {})
        runs.append(learnt(make_trainer(method, shared_prefix=shared_prefix, **case)))
    (logs, parameters, tokens), (plain_logs, plain_parameters, plain_tokens) = runs
    assert len(logs) == 4
    for log, plain in zip(logs, plain_logs, strict=True):
        assert log == pytest.approx(plain, abs=2e-4, rel=2e-4)
    assert close(parameters, plain_parameters)
    assert tokens < 0.6 * plain_tokens


def test_a_completion_that_sees_its_siblings_shows(make_trainer, monkeypatch):
    (_, right, _), share = learnt(make_trainer()), rollout_trainer.share_groups

    def wrong(*args):
        shared = share(*args)
        return shared._replace(allowed=torch.ones_like(shared.allowed).tril())

    monkeypatch.setattr(rollout_trainer, "share_groups", wrong)
    assert not close(learnt(make_trainer())[1], right)


def test_the_rows_of_a_group_stay_together_and_chance_moves_on_as_without():
    """Six groups of two in three micro-batches: whole groups, each once, by like length within the one update."""
    rollout = pad_rollout([[1 + i // 2] for i in range(12)], [[20 + i] * (1 + i % 5) for i in range(12)], 0)
    rollout["attention_to_completion"] = rollout["completion_mask"]
    torch.manual_seed(0)
    parts, state = split(rollout, 3, 1, group_size=2), torch.get_rng_state()
    assert [len(part["prompt_ids"]) for part in parts] == [4, 4, 4]
    rows = [i - 20 for part in parts for i in part["completion_ids"][:, 0].tolist()]
    assert sorted(rows) == list(range(12)) != rows
    assert all(a % 2 == 0 and b == a + 1 for a, b in zip(rows[::2], rows[1::2], strict=True))
    torch.manual_seed(0)
    split(rollout, 3, 1)
    assert torch.equal(torch.get_rng_state(), state)
    # Completions of the groups: 1 + 2, 3 + 4, 5 + 1, 2 + 3, 4 + 5, 1 + 2 tokens.
    assert by_length(rollout, torch.tensor([4, 1, 5, 2]), 2).tolist() == [10, 11, 4, 5, 2, 3, 8, 9]


def bloom() -> BloomForCausalLM:
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=32, n_layer=1, n_head=4, pad_token_id=0))


@pytest.mark.parametrize("asked", [True, None])
@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("policy", "takes no mask of its own"),
        ("reference", "takes no mask of its own"),
        ("critic", "value_model has a trunk of its own"),
        ("batch", "no multiple of num_generations"),
    ],
)
def test_what_cannot_share_says_so_once_and_learns(make_trainer, case, why, asked, tiny_llama, caplog):
    """BLOOM's ALiBi counts keys; a batch of one row cuts groups of three. Without being asked to share, no word."""
    settings = {
        "policy": dict(model=bloom()),
        "reference": dict(options={"ref_model": bloom()}),
        "critic": dict(options={"value_model": LlamaForSequenceClassification(tiny_llama(0, num_labels=1).config)}),
        "batch": dict(per_device_train_batch_size=1, steps_per_generation=6),
    }[case]
    with caplog.at_level("WARNING", logger="hfcourse.trainers.rollout_trainer"):
        trainer = make_trainer(shared_prefix=asked, max_steps=1, **settings)
        trainer.train()
    assert caplog.text.count("shared_prefix=True") == caplog.text.count(why) == (1 if asked else 0)
    assert trainer.state.log_history[0]["ratio_at_step0"] == pytest.approx(1.0, abs=2e-5)
