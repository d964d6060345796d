"""The policy-gradient trainers themselves, on all answers of a world at once: their gradient is that of the objective.

Sampling is replaced by the list of all answers, and each one's advantage is weighted by its probability: then what the
trainer makes of a "rollout", from padding and masks over rewards and credit to its loss in micro-batches, must be the
gradient of J = E[RM] - β KL to float64 rounding. What is wrong inside a trainer shows here, and in no learning curve.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

import hfcourse.rl
from hfcourse.evaluation.enumerable import EOS, PROMPTS, VOCABULARY, EnumerableWorld
from hfcourse.losses import ppo_policy_loss, reinforce_loss
from hfcourse.masking import mean_and_variance
from hfcourse.rl import (
    enumerated_logits,
    enumerated_logps,
    expected_objective,
    kl_k2,
    kl_k3,
    kl_penalized_rewards,
)
from hfcourse.trainers import ppo_trainer, reinforce_trainer, rollout_trainer
from hfcourse.trainers.ppo_trainer import PPOConfig, PPOTrainer
from hfcourse.trainers.reinforce_trainer import REINFORCEConfig, REINFORCETrainer

TEMPERATURE, BETA = 0.7, 0.5


@pytest.fixture(scope="module")
def world():
    """Answers of at most three letters: 156 to each prompt; a policy away from the reference, in float64."""
    return EnumerableWorld.make(beta=BETA, max_completion_length=3)


@pytest.fixture(scope="module")
def policy(world):
    model, generator = world.policy().double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def logps_of(world, model) -> Tensor:
    """log π(y|x) (B, N) at the temperature, with a gradient."""
    prompts = world.tokenizer(list(PROMPTS), padding=True, return_tensors="pt")

    def logits_fn(input_ids, attention_mask):
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids).logits

    logits = enumerated_logits(logits_fn, *prompts.values(), world.completion_ids, world.completion_mask)
    return enumerated_logps(logits, world.completion_ids, world.completion_mask, TEMPERATURE).sum(-1)


@pytest.fixture(scope="module")
def truth(world, policy):
    """The gradient of -J by autograd, and the probability of each answer over the number of prompts."""
    logps, ref_logps = logps_of(world, policy), logps_of(world, world.policy().double()).detach()
    rewards = world.rewards.float().double()  # trainers hold rewards in float32
    objective = expected_objective(logps, ref_logps, rewards, BETA).mean()
    gradient = torch.autograd.grad(-objective, list(policy.parameters()), allow_unused=True)
    return flatten(gradient, policy.parameters()), (logps.detach().exp() / len(PROMPTS)).flatten()


def flatten(gradients, parameters) -> Tensor:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


@pytest.fixture
def gradient_error(world, policy, truth, tmp_path):
    """Relative error of the trainer's gradient over one epoch of the rollout of all answers."""

    def measure(trainer_class, config_class, value_head=0.0, dropout=0.0, **overrides):
        num_rows = len(PROMPTS) * len(world.completion_ids)
        settings = dict(
            output_dir=str(tmp_path),
            use_cpu=True,
            per_device_train_batch_size=num_rows // 12,
            gradient_accumulation_steps=12,
            max_completion_length=3,
            temperature=TEMPERATURE,
            beta=BETA,
        )
        model = copy.deepcopy(policy)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        trainer = trainer_class(
            model,
            world.reward,
            config_class(**{**settings, **overrides}),
            world.prompts(8),
            processing_class=world.tokenizer,
            ref_model=world.policy().double(),
        )
        if value_head:
            with torch.no_grad():
                trainer.model.value_head.weight.normal_(0, value_head, generator=torch.Generator().manual_seed(2))
        ids = [
            row[mask.bool()].tolist() for row, mask in zip(world.completion_ids, world.completion_mask, strict=True)
        ]
        prompts = [prompt for prompt in PROMPTS for _ in ids]
        trainer._generate = lambda _: (world.tokenizer(prompts)["input_ids"], ids * len(PROMPTS), [""] * num_rows)
        trainer.model.train()
        rollout = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in prompts])
        rollout["advantages"] = rollout["advantages"] * truth[1].unsqueeze(1)
        for batch in trainer._split_into_updates(rollout):
            trainer._compute_loss(trainer.model, batch).backward()
        # PPO divides by the tokens of the step, REINFORCE by its completions.
        count = rollout["completion_mask"].sum() if trainer_class is PPOTrainer else num_rows
        trained = [(n, p) for n, p in trainer.model.named_parameters() if not n.startswith("value_head")]
        gradient = flatten([p.grad for _, p in trained], [p for _, p in trained]) * count
        return ((gradient - truth[0]).norm() / truth[0].norm()).item()

    return measure


PPO = (PPOTrainer, PPOConfig)
REINFORCE = (REINFORCETrainer, REINFORCEConfig)
PLAIN = dict(lam=1.0, vf_coef=0.0, normalize_advantages=False, num_iterations=1)


def test_reinforce(gradient_error):
    assert gradient_error(*REINFORCE, baseline="none") < 1e-9
    assert gradient_error(*REINFORCE, baseline="none", dropout=0.1) < 1e-9  # the trainer turns it off


def test_ppo_at_lambda_one_with_any_critic(gradient_error):
    """At the start V = 0; and with a critic that knows nothing of the rewards."""
    assert gradient_error(*PPO, **PLAIN) < 1e-9
    assert gradient_error(*PPO, **PLAIN, value_head=1.0) < 1e-6  # the critic computes in float32


# ------------------------------------------------------------------------------------------- bugs planted in trainers


def eos_masked_out(prompt_ids, completion_ids, pad_id, original=rollout_trainer.pad_rollout):
    rollout = original(prompt_ids, completion_ids, pad_id)
    return {**rollout, "completion_mask": rollout["completion_mask"] * (rollout["completion_ids"] != VOCABULARY[EOS])}


def padding_counted(prompt_ids, completion_ids, pad_id, original=rollout_trainer.pad_rollout):
    rollout = original(prompt_ids, completion_ids, pad_id)
    return {**rollout, "completion_mask": torch.ones_like(rollout["completion_mask"])}


def prompts_padded_on_the_right(prompt_ids, completion_ids, pad_id, original=rollout_trainer.pad_rollout):
    """And their mask on the left: the attention sees padding and misses the prompt's end."""
    rollout = original(prompt_ids, completion_ids, pad_id)
    rows = [torch.tensor(ids) for ids in prompt_ids]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)
    return {**rollout, "prompt_ids": padded}


def score_one_slot_late(scores, logps, ref_logps, mask, beta):
    on_time = kl_penalized_rewards(scores, logps, ref_logps, mask, 0.0)
    return kl_penalized_rewards(0 * scores, logps, ref_logps, mask, beta) + on_time.roll(1, 1) * mask


def k3_in_the_reward(scores, logps, ref_logps, mask, beta):
    return kl_penalized_rewards(scores, logps, ref_logps, mask, 0.0) - beta * kl_k3(logps, ref_logps) * mask


def kl_of_the_other_direction(scores, logps, ref_logps, mask, beta):
    return kl_penalized_rewards(scores, ref_logps, logps, mask, beta)


def scale_with_the_mean_kept(x, mask, var):
    mean, _ = mean_and_variance(mask.sum().double(), (x * mask).sum().double(), (x * x * mask).sum().double())
    return ((x - mean) * (var + 1e-8).rsqrt() + mean) * mask * (var + 1e-8).sqrt()


def scale_alone(x, mask, var, original=ppo_trainer.scale):
    return original(x, mask, var) * (var + 1e-8).sqrt()


def mean_over_tokens(per_token_logps, advantages, mask):
    return reinforce_loss(per_token_logps, advantages, mask) / mask.sum(1).clamp(min=1)


def no_old_logps(logps, old_logps, advantages, epsilon):
    return ppo_policy_loss(logps, torch.zeros_like(old_logps), advantages, epsilon)


def kl_in_the_loss_too(logps, old_logps, advantages, epsilon):
    losses, clipped = ppo_policy_loss(logps, old_logps, advantages, epsilon)
    return losses + 1e-3 * kl_k2(logps, old_logps - 0.1), clipped


def each_micro_batch_by_its_own_count(self, rollout, original=rollout_trainer.RolloutTrainer._split_into_updates):
    return [{**batch, "num_items": 12 * batch["completion_mask"].sum()} for batch in original(self, rollout)]


def micro_batches_that_do_nothing(self, rollout, original=rollout_trainer.RolloutTrainer._split_into_updates):
    return original(self, rollout)[-1:] * 12


def rows_apart(self, rollout, original=rollout_trainer.RolloutTrainer._split_into_updates):
    return original(self, {**rollout, "advantages": rollout["advantages"].roll(1, 0)})


def critic_one_token_early(rewards, values, mask, gamma, lam, original=ppo_trainer.generalized_advantage_estimation):
    return original(rewards, values.roll(-1, 1), mask, gamma, lam)


SPLIT = (rollout_trainer.RolloutTrainer, "_split_into_updates")
MUTANTS = {
    "EOS masked out": (REINFORCE, [(rollout_trainer, "pad_rollout", eos_masked_out)], {}),
    "padding counted": (PPO, [(rollout_trainer, "pad_rollout", padding_counted)], {}),
    "prompts padded on the right": (PPO, [(rollout_trainer, "pad_rollout", prompts_padded_on_the_right)], {}),
    "score one slot late": (PPO, [(ppo_trainer, "kl_penalized_rewards", score_one_slot_late)], {}),
    "k3 in the reward": (REINFORCE, [(reinforce_trainer, "kl_penalized_rewards", k3_in_the_reward)], {}),
    "KL of the other sign": (PPO, [(ppo_trainer, "kl_penalized_rewards", kl_of_the_other_direction)], {}),
    "KL twice: reward and loss": (PPO, [(ppo_trainer, "ppo_policy_loss", kl_in_the_loss_too)], {}),
    "beta ignored": (REINFORCE, [], {"beta": 0.0}),
    "temperature 1 in the loss": (PPO, [], {"temperature": 1.0}),
    "gamma below 1": (PPO, [], {"gamma": 0.9}),
    "rewards whitened, mean kept": (PPO, [(ppo_trainer, "scale", scale_with_the_mean_kept)], {"whiten_rewards": True}),
    "1/length a sequence": (REINFORCE, [(reinforce_trainer, "reinforce_loss", mean_over_tokens)], {}),
    "ratio without old log-probs": (PPO, [(ppo_trainer, "ppo_policy_loss", no_old_logps)], {}),
    "micro-batches by their own counts": (PPO, [(*SPLIT, each_micro_batch_by_its_own_count)], {}),
    "micro-batches that do nothing": (REINFORCE, [(*SPLIT, micro_batches_that_do_nothing)], {}),
    "dropout on": (REINFORCE, [], {"dropout": 0.1, "disable_dropout": False}),
    "advantages of another row": (REINFORCE, [(*SPLIT, rows_apart)], {}),
    "critic one token early": (
        PPO,
        [(ppo_trainer, "generalized_advantage_estimation", critic_one_token_early)],
        {"value_head": 1.0},
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_inside_the_trainer_shows_in_its_gradient(gradient_error, monkeypatch, name):
    method, patches, overrides = MUTANTS[name]
    for patch in patches:
        monkeypatch.setattr(*patch)
    plain = {"baseline": "none"} if method is REINFORCE else PLAIN
    assert gradient_error(*method, **{**plain, **overrides}) > 1e-3


def test_the_page_lists_these_bugs():
    page = (Path(hfcourse.rl.__file__).parent / "MUTANTS.md").read_text(encoding="utf-8")
    assert "\n".join(f"- {name}" for name in MUTANTS) in page


def test_scaled_rewards_give_a_scaled_gradient(gradient_error, monkeypatch):
    """The right `whiten_rewards`, brought back to its scale: beside the mutant that keeps the mean."""
    monkeypatch.setattr(ppo_trainer, "scale", scale_alone)
    assert gradient_error(*PPO, **PLAIN, whiten_rewards=True) < 1e-6
