"""Planted bugs die: 49 ways to call these functions wrongly, and which exact check sees which.

`PolicyStep` is a policy-gradient trainer reduced to its calls; each field is a place where trainers have gone wrong. A
mutant replaces one field. Every mutant declares the complete set of checks that flag it, and the set is tested for
equality, so the tables say what the checks can see and what they cannot: a loss that is smoothed or made robust by
mistake is seen at the optimum alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

import hfcourse.rl
from hfcourse.logprobs import token_logps
from hfcourse.losses import dpo_loss, hinge_preference_loss, ipo_loss, ppo_policy_loss, ppo_value_loss, robust_dpo_loss
from hfcourse.masking import masked_mean, masked_moments, masked_sum, mean_and_variance, whiten
from hfcourse.rl import generalized_advantage_estimation, kl_k1, kl_k2, kl_k3, kl_penalized_rewards, sequence_kl
from tests.rl.exact_world import (
    BETA,
    COMPLETION_IDS,
    COMPLETION_MASK,
    EOS,
    PROMPT_IDS,
    PROMPT_MASK,
    REWARDS,
    World,
    logits_fn,
    policy_logits,
    relative_error,
)

IDS, MASK = COMPLETION_IDS.repeat(3, 1), COMPLETION_MASK.repeat(3, 1)
TRUNCATED = ((IDS == EOS) & (MASK == 1)).sum(1) == 0


def no_extra(step, world, rollout, logps, rewards):
    return 0.0


def whole_step(losses, mask):
    """Micro-batches of a step, each divided by the token count of the whole step (and multiplied by it at the end)."""
    count = mask.sum()
    return sum(masked_sum(losses[i::7], mask[i::7], count) for i in range(7)) * count


@dataclass(frozen=True)
class PolicyStep:
    forward: Callable = logits_fn
    labels: torch.Tensor = IDS
    temperature: float = 0.7
    mask: torch.Tensor = MASK
    rewards: Callable = kl_penalized_rewards
    values: Callable = lambda values: values
    gae: Callable = generalized_advantage_estimation
    old_logps: Callable = lambda logps: logps
    advantages: Callable = lambda advantages, mask: advantages
    policy_loss: Callable = ppo_policy_loss
    value_loss: Callable = ppo_value_loss
    reduce: Callable = whole_step
    extra_loss: Callable = no_extra

    def logps(self, world):
        logits = policy_logits(self.forward(world.model)).flatten(0, 1)
        logps, _ = token_logps(logits, self.labels, self.temperature)
        return logps.where(self.mask.bool(), 0.0)

    def token_rewards(self, rollout):
        return self.rewards(rollout.scores, rollout.logps, rollout.ref_logps, self.mask, BETA)

    def policy_gradient(self, world, rollout, critic, lam):
        logps, rewards = self.logps(world), self.token_rewards(rollout)
        advantages, _ = self.gae(rewards, self.values(critic), self.mask, 1.0, lam)
        advantages = self.advantages(advantages, self.mask)
        losses, _ = self.policy_loss(logps, self.old_logps(rollout.logps), advantages)
        loss = self.reduce(rollout.weights.unsqueeze(1) * losses, self.mask)
        return world.gradient(loss + self.extra_loss(self, world, rollout, logps, rewards))


@pytest.fixture(scope="module")
def world():
    """GPT-2: absolute positions, dropout in its config; sampled at T = 0.7."""
    return World.make("gpt2", 0.7)


# ---------------------------------------------------------------------------------------------- the checks


def arbitrary_critic(rollout):
    return 3 * rollout.values.sin() + 1


def gradient_with_exact_critic(step, world):
    rollout = world.rollout()
    gradient = step.policy_gradient(world, rollout, rollout.values, 0.95)
    assert relative_error(gradient, world.gradient(-world.objective())) < 1e-10


def gradient_with_any_critic(step, world):
    rollout = world.rollout()
    gradient = step.policy_gradient(world, rollout, arbitrary_critic(rollout), 1.0)
    assert relative_error(gradient, world.gradient(-world.objective())) < 1e-10


def first_ratio_is_one(step, world):
    rollout = world.rollout()
    ratio = (step.logps(world) - step.old_logps(rollout.logps)).exp()
    assert ((ratio - 1).abs().where(step.mask.bool(), 0.0) < 1e-10).all()


def critic_rests_at_the_truth(step, world):
    """The expected gradient of the value loss is 0 at the true critic, state by state (the first one is shared)."""
    rollout = world.rollout()
    returns = step.gae(step.token_rewards(rollout), step.values(rollout.values), step.mask, 1.0, 0.95)[1]
    values = rollout.values.clone().requires_grad_()
    losses, _ = step.value_loss(values, rollout.values, returns)
    (grad,) = torch.autograd.grad((rollout.weights.unsqueeze(1) * losses).where(step.mask.bool(), 0.0).sum(), values)
    assert grad[:, 0].view(3, -1).sum(1).abs().max() < 1e-12


def logged_kl_is_the_kl(step, world):
    """Σ_t k1 of the step's own log-probs, averaged, is KL(π ‖ π_ref)."""
    rollout = world.rollout()
    kl = (rollout.weights * kl_k1(step.logps(world), rollout.ref_logps).where(step.mask.bool(), 0.0).sum(1)).sum()
    exact = sequence_kl(rollout.logps.sum(1).view(3, -1), rollout.ref_logps.sum(1).view(3, -1)).mean()
    torch.testing.assert_close(kl, exact)


def rewards_sum_to_the_course_reward(step, world):
    """Σ_t r_t = RM(s) - β log(π(s)/π_ref(s)) for each completion: the notes' (2.1)."""
    rollout = world.rollout()
    expected = rollout.scores - BETA * (rollout.logps - rollout.ref_logps).sum(1)
    torch.testing.assert_close(step.token_rewards(rollout).where(step.mask.bool(), 0.0).sum(1), expected)


POLICY_CHECKS = {
    "exact critic": gradient_with_exact_critic,
    "any critic": gradient_with_any_critic,
    "first ratio": first_ratio_is_one,
    "critic": critic_rests_at_the_truth,
    "KL": logged_kl_is_the_kl,
    "reward": rewards_sum_to_the_course_reward,
}


# ---------------------------------------------------------------------------------------------- the mutants


def dropout_on(model):
    def call(input_ids, attention_mask):
        model.train()
        torch.manual_seed(0)
        logits = logits_fn(model)(input_ids, attention_mask)
        model.eval()
        return logits

    return call


def no_position_ids(model):
    return lambda input_ids, attention_mask: model(input_ids=input_ids, attention_mask=attention_mask).logits


def no_attention_mask(model):
    def call(input_ids, attention_mask):
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return model(input_ids=input_ids, position_ids=position_ids).logits

    return call


def logits_one_late(model):
    return lambda *inputs: logits_fn(model)(*inputs).roll(-1, 1)


def score_one_slot_late(scores, logps, ref_logps, mask, beta):
    on_time = kl_penalized_rewards(scores, logps, ref_logps, mask, 0.0)
    return kl_penalized_rewards(0 * scores, logps, ref_logps, mask, beta) + on_time.roll(1, 1) * mask


def score_in_the_last_column(scores, logps, ref_logps, mask, beta):
    return kl_penalized_rewards(scores, logps * mask, ref_logps * mask, torch.ones_like(mask), beta)


def score_on_every_token(scores, logps, ref_logps, mask, beta):
    return kl_penalized_rewards(0 * scores, logps, ref_logps, mask, beta) + scores.unsqueeze(1) * mask


def k3_in_the_reward(scores, logps, ref_logps, mask, beta):
    """Right on average, so that the first state's value is too; the gradient is not."""
    penalty = -beta * kl_k3(logps, ref_logps) * mask
    return penalty + kl_penalized_rewards(scores, logps, ref_logps, mask, 0.0)


def absolute_kl(scores, logps, ref_logps, mask, beta):
    penalty = -beta * kl_k1(logps, ref_logps).abs() * mask
    return penalty + kl_penalized_rewards(scores, logps, ref_logps, mask, 0.0)


def whitened_rewards(scores, logps, ref_logps, mask, beta):
    rewards = kl_penalized_rewards(scores, logps, ref_logps, mask, beta)
    mean, var = mean_and_variance(*masked_moments(rewards, mask))
    return whiten(rewards, mask, mean, var) * (var + 1e-8).sqrt()


def whitened_rewards_mean_kept(scores, logps, ref_logps, mask, beta):
    """(r - m) / s + m, "without mean shift": a bonus of m (1 - 1/s) a token, here brought back to the scale of r."""
    rewards = kl_penalized_rewards(scores, logps, ref_logps, mask, beta)
    mean, var = mean_and_variance(*masked_moments(rewards, mask))
    std = (var + 1e-8).sqrt()
    return (whiten(rewards, mask, mean, var) + mean * mask) * std


def fine_all_full_completions(scores, logps, ref_logps, mask, beta):
    """A penalty of 1 for completions without padding, also for those whose EOS is the very last token."""
    return kl_penalized_rewards(scores - (mask.sum(1) == mask.shape[1]).double(), logps, ref_logps, mask, beta)


def kl_on_its_own_token_only(step, world, rollout, logps, rewards):
    """Takes the KL of later tokens out of the returns again."""
    penalties = -BETA * kl_k1(rollout.logps, rollout.ref_logps)
    later = penalties.flip(1).cumsum(1).flip(1) - penalties
    return (rollout.weights.unsqueeze(1) * later * logps).sum()


def kl_as_a_loss_too(step, world, rollout, logps, rewards):
    return BETA * (rollout.weights * kl_k2(logps.sum(1), rollout.ref_logps.sum(1))).sum()


def prompt_tokens_too(step, world, rollout, logps, rewards):
    logits = logits_fn(world.model)(PROMPT_IDS, PROMPT_MASK)[:, :-1]
    prompt_logps = token_logps(logits, PROMPT_IDS[:, 1:], step.temperature)[0] * PROMPT_MASK[:, :-1]
    returns = (rollout.weights * rewards.sum(1)).view(3, -1).sum(1)
    return -(returns * prompt_logps.sum(1)).sum()


def entropy_bonus_left_on(step, world, rollout, logps, rewards):
    logits = policy_logits(step.forward(world.model)).flatten(0, 1)
    entropy = token_logps(logits, IDS, step.temperature)[1]
    return -0.01 * (rollout.weights.unsqueeze(1) * entropy * MASK).sum()


def per_sequence_mean(losses, mask):
    return (losses * mask).sum(1).div(mask.sum(1)).sum()


def each_micro_batch_by_its_own_count(losses, mask):
    return sum(masked_mean(losses[i::7], mask[i::7]) for i in range(7)) * mask.sum() / 7


def last_micro_batch_only(losses, mask):
    return masked_sum(losses[6::7], mask[6::7], mask.sum()) * mask.sum()


def forged_eos():
    ids = IDS.clone()
    ids[TRUNCATED, -1] = EOS
    return ids


def gae_with_gamma_0(rewards, values, mask, gamma, lam):
    return generalized_advantage_estimation(rewards, values, mask, 0.0, lam)


def gae_without_mask(rewards, values, mask, gamma, lam):
    """Junk values in the padding, and no mask to skip them."""
    advantages, returns = generalized_advantage_estimation(
        rewards, values + 0.5 * (1 - mask), torch.ones_like(mask), gamma, lam
    )
    return advantages * mask, returns * mask


GRADIENTS = {"exact critic", "any critic"}
RIGHT = PolicyStep()

POLICY_MUTANTS = {
    "sign of the loss": (
        {"policy_loss": lambda n, o, a: ppo_policy_loss(n, o, -a)}, GRADIENTS),
    "sign of the score": (
        {"rewards": lambda s, p, q, m, b: kl_penalized_rewards(-s, p, q, m, b)}, GRADIENTS | {"critic", "reward"}),
    "sign of the KL penalty": (
        {"rewards": lambda s, p, q, m, b: kl_penalized_rewards(s, q, p, m, b)}, GRADIENTS | {"critic", "reward"}),
    "beta ignored": (
        {"rewards": lambda s, p, q, m, b: kl_penalized_rewards(s, p, q, m, 1.0)}, GRADIENTS | {"critic", "reward"}),
    "k3 in the reward": ({"rewards": k3_in_the_reward}, GRADIENTS | {"reward"}),
    "abs(k1) in the reward": ({"rewards": absolute_kl}, GRADIENTS | {"critic", "reward"}),
    "score one slot late": ({"rewards": score_one_slot_late}, GRADIENTS | {"critic", "reward"}),
    "score in the last column": ({"rewards": score_in_the_last_column}, GRADIENTS | {"critic", "reward"}),
    "score on every token": ({"rewards": score_on_every_token}, GRADIENTS | {"critic", "reward"}),
    "rewards whitened with their mean": ({"rewards": whitened_rewards}, GRADIENTS | {"critic", "reward"}),
    "rewards whitened, mean kept": ({"rewards": whitened_rewards_mean_kept}, GRADIENTS | {"critic", "reward"}),
    "EOS in the last slot fined as missing": (
        {"rewards": fine_all_full_completions}, GRADIENTS | {"critic", "reward"}),
    "KL twice: reward and loss": ({"extra_loss": kl_as_a_loss_too}, GRADIENTS),
    "KL on its own token only": ({"extra_loss": kl_on_its_own_token_only}, GRADIENTS),
    "prompt tokens in the loss": ({"extra_loss": prompt_tokens_too}, GRADIENTS),
    "entropy bonus left on": ({"extra_loss": entropy_bonus_left_on}, GRADIENTS),
    "EOS action masked out (pad = EOS)": (
        {"mask": (IDS != EOS).long()}, GRADIENTS | {"critic", "KL", "reward"}),
    "padding counted": ({"mask": torch.ones_like(MASK)}, GRADIENTS | {"first ratio", "critic", "KL"}),
    "mask one token late": ({"mask": MASK.roll(1, 1)}, GRADIENTS | {"first ratio", "critic", "KL", "reward"}),
    "forged EOS on cut completions": ({"labels": forged_eos()}, GRADIENTS | {"first ratio", "KL"}),
    "labels shifted": ({"labels": IDS.roll(1, 1)}, GRADIENTS | {"first ratio", "KL"}),
    "logits one position late": ({"forward": logits_one_late}, GRADIENTS | {"first ratio", "KL"}),
    "dropout on": ({"forward": dropout_on}, GRADIENTS | {"first ratio", "KL"}),
    "no position ids under left padding": ({"forward": no_position_ids}, GRADIENTS | {"first ratio", "KL"}),
    "no attention mask under left padding": ({"forward": no_attention_mask}, GRADIENTS | {"first ratio", "KL"}),
    "scored at T = 1, sampled at 0.7": ({"temperature": 1.0}, GRADIENTS | {"first ratio", "KL"}),
    "ratio without old log-probs": ({"old_logps": torch.zeros_like}, GRADIENTS | {"first ratio"}),
    "old log-probs of another row": (
        {"old_logps": lambda old: old.roll(1, 0)}, GRADIENTS | {"first ratio"}),
    "critic one token late": ({"values": lambda v: v.roll(1, 1)}, GRADIENTS | {"critic"}),
    "critic one token early": ({"values": lambda v: v.roll(-1, 1)}, GRADIENTS | {"critic"}),
    "critic of the wrong sign": ({"values": lambda v: -v}, {"exact critic", "critic"}),
    "critic of another row": ({"values": lambda v: v.roll(1, 0)}, GRADIENTS | {"critic"}),
    "gamma 0: rewards not to go": ({"gae": gae_with_gamma_0}, GRADIENTS | {"critic"}),
    "junk values after the end": (
        {"gae": gae_without_mask}, {"exact critic", "critic"}),
    "1/length a sequence": ({"reduce": per_sequence_mean}, GRADIENTS),
    "micro-batches by their own counts": ({"reduce": each_micro_batch_by_its_own_count}, GRADIENTS),
    "micro-batches that do nothing": ({"reduce": last_micro_batch_only}, GRADIENTS),
    "advantages clipped at 0": ({"advantages": lambda a, m: a.relu()}, GRADIENTS),
}  # fmt: skip


def flagged_by(checks, subject, world):
    flags = set()
    for name, check in checks.items():
        try:
            check(subject, world)
        except AssertionError:
            flags.add(name)
    return flags


def test_the_right_step_passes_every_check(world):
    for check in POLICY_CHECKS.values():
        check(RIGHT, world)


@pytest.mark.parametrize("name", POLICY_MUTANTS)
def test_policy_mutant_dies(name, world):
    change, flags = POLICY_MUTANTS[name]
    assert flagged_by(POLICY_CHECKS, replace(RIGHT, **change), world) == flags


# ---------------------------------------------------------------------------------------------- preferences


@dataclass(frozen=True)
class PreferenceStep:
    """A DPO trainer reduced to its calls: per-token log-probs (B, N, T) -> one number a completion -> loss."""

    sequence: Callable = lambda logps, mask: logps.sum(-1)
    loss: Callable = dpo_loss
    beta: float = BETA
    options: tuple = ()

    def __call__(self, logps, ref_logps):
        """Loss and margin of every pair (B, N, N), the first of the two preferred."""
        policy, reference = (self.sequence(x, COMPLETION_MASK.expand_as(x)) for x in (logps, ref_logps))
        pairs = [x for y in (policy, reference) for x in torch.broadcast_tensors(y.unsqueeze(2), y.unsqueeze(1))]
        losses, chosen, rejected = self.loss(*pairs, beta=self.beta, **dict(self.options))
        return losses, chosen - rejected


def population_rests_at_the_optimum(step, world):
    """π_ref is chosen so that the model's π is π* of the reward: under Bradley-Terry labels nothing wants to move."""
    logps = world.logps_of(policy_logits(logits_fn(world.model)))
    # The reference differs from π in the last token's log-prob only; the prompt's constant log Z cancels in all pairs.
    last = (COMPLETION_MASK.flip(1).cumsum(1).flip(1) == 1) & (COMPLETION_MASK == 1)
    ref_logps = logps.detach() - torch.where(last, REWARDS.unsqueeze(-1) / BETA, 0.0)
    law = torch.sigmoid(REWARDS.unsqueeze(2) - REWARDS.unsqueeze(1))
    losses, _ = step(logps, ref_logps)
    assert world.gradient((law * losses).sum() / law.sum()).norm() < 1e-12


def first_loss_is_log_two(step, world):
    logps = world.rollout().logps.view(3, -1, COMPLETION_IDS.shape[1])
    losses, margins = step(logps, logps)
    torch.testing.assert_close(losses, torch.full_like(losses, 2.0).log())
    assert (margins == 0).all()


def margin_is_beta_times_the_log_ratio(step, world):
    rollout = world.rollout()
    logps, ref_logps = (x.view(3, -1, COMPLETION_IDS.shape[1]) for x in (rollout.logps, rollout.ref_logps))
    rewards = BETA * (logps - ref_logps).sum(-1)
    torch.testing.assert_close(step(logps, ref_logps)[1], rewards.unsqueeze(2) - rewards.unsqueeze(1))


def loss_falls_as_the_preferred_rises(step, world):
    """Of two answers with equal log-ratios, making the preferred one likelier lowers the loss."""
    logps = world.rollout().logps.view(3, -1, COMPLETION_IDS.shape[1])
    raised = logps.clone()
    raised[:, 5, 0] += 0.1
    assert (step(raised, logps)[0][:, 5, :5] < step(logps, logps)[0][:, 5, :5]).all()


PREFERENCE_CHECKS = {
    "optimum": population_rests_at_the_optimum,
    "log 2": first_loss_is_log_two,
    "margin": margin_is_beta_times_the_log_ratio,
    "direction": loss_falls_as_the_preferred_rises,
}


def without_eos(logps, mask):
    return (logps * (COMPLETION_IDS != EOS)).sum(-1)


def swap_pair(w, r, ref_w, ref_r, **options):
    return dpo_loss(r, w, ref_r, ref_w, **options)


def swap_reference(w, r, ref_w, ref_r, **options):
    return dpo_loss(w, r, ref_r, ref_w, **options)


def drop_reference(w, r, ref_w, ref_r, **options):
    return dpo_loss(w, r, 0 * ref_w, 0 * ref_r, **options)


PREFERENCE_MUTANTS = {
    "mean over tokens for the sum": (
        {"sequence": lambda x, mask: x.sum(-1) / mask.sum(-1)}, {"optimum", "margin"}),
    "EOS left out": ({"sequence": without_eos}, {"optimum", "margin"}),
    "first token left out": ({"sequence": lambda x, mask: x[..., 1:].sum(-1)}, {"optimum", "margin", "direction"}),
    "chosen and rejected swapped": ({"loss": swap_pair}, {"optimum", "margin", "direction"}),
    "references swapped": ({"loss": swap_reference}, {"optimum", "log 2", "margin"}),
    "no reference": ({"loss": drop_reference}, {"optimum", "log 2", "margin"}),
    "beta twice": ({"beta": BETA**2}, {"optimum", "margin"}),
    "smoothing left on": ({"options": (("label_smoothing", 0.1),)}, {"optimum"}),
    "hinge for sigmoid": ({"loss": hinge_preference_loss}, {"optimum", "log 2"}),
    "IPO for sigmoid": ({"loss": ipo_loss}, {"optimum", "log 2"}),
    "robust on clean labels": ({"loss": robust_dpo_loss, "options": (("label_smoothing", 0.1),)}, {"optimum"}),
}  # fmt: skip


def test_the_right_preference_step_passes_every_check(world):
    for check in PREFERENCE_CHECKS.values():
        check(PreferenceStep(), world)


@pytest.mark.parametrize("name", PREFERENCE_MUTANTS)
def test_preference_mutant_dies(name, world):
    change, flags = PREFERENCE_MUTANTS[name]
    assert flagged_by(PREFERENCE_CHECKS, replace(PreferenceStep(), **change), world) == flags


# ---------------------------------------------------------------------------------------------- the table for readers

PAGE = Path(hfcourse.rl.__file__).parent / "MUTANTS.md"


def table(mutants, checks) -> str:
    """Markdown: a row for each mutant, a column for each check, x where the check flags the mutant."""
    head = ["| planted bug | " + " | ".join(checks) + " |", "|---" + "|:-:" * len(checks) + "|"]
    rows = [
        f"| {name} | " + " | ".join("x" if check in flags else "" for check in checks) + " |"
        for name, (_, flags) in mutants.items()
    ]
    return "\n".join(head + rows)


def test_the_page_shows_these_tables():
    """To write it anew: replace each table of MUTANTS.md by what `table` returns."""
    page = PAGE.read_text(encoding="utf-8")
    for mutants, checks in ((POLICY_MUTANTS, POLICY_CHECKS), (PREFERENCE_MUTANTS, PREFERENCE_CHECKS)):
        assert table(mutants, checks) in page


def test_no_check_is_idle():
    """Every check flags a mutant."""
    for checks, mutants in ((POLICY_CHECKS, POLICY_MUTANTS), (PREFERENCE_CHECKS, PREFERENCE_MUTANTS)):
        assert set(checks) == set().union(*(flags for _, flags in mutants.values()))
