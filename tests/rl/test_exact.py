"""Our losses held against exact truth: every completion enumerated, every expectation a sum, in float64.

A loss is fed all completions weighted by their probability; its gradient must be that of the exact objective
J = E[RM(x, y) - β log(π(y|x) / π_ref(y|x))] (course notes, 2.3). Then the optima of the preference losses.
"""

import math

import pytest
import torch

from hfcourse.losses import (
    bradley_terry_loss,
    dpo_loss,
    ipo_loss,
    ppo_policy_loss,
    ppo_value_loss,
    reinforce_loss,
    robust_dpo_loss,
)
from hfcourse.masking import masked_mean, masked_moments, masked_sum, mean_and_variance, scale, whiten
from hfcourse.rl import (
    best_of_n_policy,
    enumerate_completions,
    enumerated_logits,
    expected_objective,
    generalized_advantage_estimation,
    kl_full,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_penalized_rewards,
    leave_one_out_advantages,
    optimal_objective,
    optimal_policy,
    rao_blackwellized_kl_loss,
    sequence_kl,
    state_values,
)
from tests.rl.exact_world import (
    BETA,
    COMPLETION_IDS,
    COMPLETION_MASK,
    CONFIGS,
    EOS,
    HORIZON,
    REWARDS,
    VOCAB,
    World,
    cosine,
    logits_fn,
    policy_logits,
    relative_error,
)

TOLERANCE = 1e-10


@pytest.fixture(scope="module", params=[*CONFIGS, "llama at T = 0.7"])
def world(request):
    architecture, _, temperature = request.param.partition(" at T = ")
    return World.make(architecture, float(temperature or 1))


@pytest.fixture
def rollout(world):
    return world.rollout()


@pytest.fixture
def logps(world):
    """(B·N, T), with a gradient to the model."""
    return world.logps_of(policy_logits(logits_fn(world.model))).flatten(0, 1)


@pytest.fixture
def truth(world):
    """Exact gradient of the loss -J."""
    return world.gradient(-world.objective())


@pytest.fixture
def kl_truth(world):
    """Exact gradient of β KL(π ‖ π_ref), the mean over the prompts."""
    logps = world.logps_of(policy_logits(logits_fn(world.model))).sum(-1)
    return world.gradient(BETA * sequence_kl(logps, world.logps_of(world.ref_logits).sum(-1)).mean())


def token_rewards(rollout):
    return kl_penalized_rewards(rollout.scores, rollout.logps, rollout.ref_logps, rollout.mask, BETA)


# ---------------------------------------------------------------------------------------------- the enumeration


def test_completions_are_the_leaves_of_the_tree():
    """Three tokens, EOS = 0, T = 2: EOS; 1 EOS, 2 EOS; 11, 12, 21, 22. Filled up with EOS where the mask is 0."""
    ids, mask = enumerate_completions([0, 1, 2], 0, 2)
    assert ids.tolist() == [[0, 0], [1, 0], [2, 0], [1, 1], [1, 2], [2, 1], [2, 2]]
    assert mask.tolist() == [[1, 0]] + [[1, 1]] * 6
    assert len(COMPLETION_IDS) == sum(3**k for k in range(HORIZON)) + 3**HORIZON == 121
    assert COMPLETION_IDS.max() == VOCAB - 1


def test_probabilities_sum_to_one(rollout):
    torch.testing.assert_close(rollout.weights.view(3, -1).sum(1), torch.full((3,), 1 / 3, dtype=torch.float64))


def test_left_padding_changes_nothing(world):
    """The shortest prompt alone, without padding, has the log-probs that it has in the batch."""
    alone = enumerated_logits(
        logits_fn(world.model),
        torch.tensor([[1]]),
        torch.ones(1, 1, dtype=torch.long),
        COMPLETION_IDS,
        COMPLETION_MASK,
    )
    batched = policy_logits(logits_fn(world.model))[:1]
    torch.testing.assert_close(world.logps_of(alone), world.logps_of(batched))


def test_state_values_by_hand():
    """Tokens EOS and 1, T = 2: EOS (¼), 1 EOS (¼), 1 1 (½); rewards (4, ·), (1, 2), (1, 5).
    V(s_0) = ¼·4 + ¼·3 + ½·6 = 4.75; V(1) = (¼·2 + ½·5) / ¾ = 4."""
    ids, mask = enumerate_completions([0, 1], 0, 2)
    rewards = torch.tensor([[[4.0, 0.0], [1.0, 2.0], [1.0, 5.0]]])
    values = state_values(torch.tensor([[0.25, 0.25, 0.5]]).log(), rewards, ids, mask)
    torch.testing.assert_close(values, torch.tensor([[[4.75, 0.0], [4.75, 4.0], [4.75, 4.0]]]))


# ---------------------------------------------------------------------------------------------- the optimum


def test_optimal_policy_by_hand():
    """π_ref = (½, ¼, ¼), r = (0, log 2, log 4), β = 1: weights ½, ½, 1, so π* = (¼, ¼, ½) and J* = log Z = log 2.
    At β = ½ the tilt is squared: ½, 1, 4, Z = 5.5, J* = ½ log 5.5. A padded slot plays no part, whatever it holds."""
    ref = torch.tensor([0.5, 0.25, 0.25, 0.0]).log()
    rewards = torch.tensor([0.0, math.log(2), math.log(4), math.nan])
    torch.testing.assert_close(optimal_policy(ref, rewards, 1.0).exp(), torch.tensor([0.25, 0.25, 0.5, 0.0]))
    assert optimal_objective(ref, rewards, 1.0).item() == pytest.approx(math.log(2))
    assert optimal_objective(ref, rewards, 0.5).item() == pytest.approx(0.5 * math.log(5.5))
    assert expected_objective(optimal_policy(ref, rewards, 1.0), ref, rewards, 1.0).item() == pytest.approx(
        math.log(2)
    )


def test_regret_is_beta_times_the_kl_to_the_optimum(world, rollout):
    """J* - J(π) = β KL(π ‖ π*), prompt by prompt, for a π that is neither π_ref nor π*."""
    logps, ref_logps = (x.sum(1).view(3, -1) for x in (rollout.logps, rollout.ref_logps))
    regret = optimal_objective(ref_logps, REWARDS, BETA) - expected_objective(logps, ref_logps, REWARDS, BETA)
    torch.testing.assert_close(regret, BETA * sequence_kl(logps, world.optimum()), rtol=1e-11, atol=0)
    assert (regret > 0.05).all()


def test_no_policy_beats_the_optimum(world):
    """J at π* exceeds J at 200 random perturbations of it, and the reward is recovered as β log(π*/π_ref) + β log Z:
    the notes' (2.5)."""
    ref_logps, best = world.logps_of(world.ref_logits).sum(-1), world.optimum()
    noise = torch.randn(200, *best.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    others = torch.log_softmax(best + 0.1 * noise, -1)
    optimum = optimal_objective(ref_logps, REWARDS, BETA)
    assert (expected_objective(others, ref_logps, REWARDS, BETA) < optimum).all()
    torch.testing.assert_close(BETA * (best - ref_logps) + optimum.unsqueeze(1), REWARDS)


def test_best_of_n_by_hand():
    """π_ref = (½, ¼, ⅛, ⅛), r = (0, 1, 2, 2). Of two draws the best is the first in ¼ of cases, the second in
    (¾)² - ¼ = 5/16, one of the tied two in 7/16, halved between them. A padded slot plays no part. Of one it is π_ref.
    """
    ref = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0]).log()
    rewards = torch.tensor([0.0, 1.0, 2.0, 2.0, 9.0])
    torch.testing.assert_close(
        best_of_n_policy(ref, rewards, 2).exp(), torch.tensor([0.25, 5 / 16, 7 / 32, 7 / 32, 0.0])
    )
    torch.testing.assert_close(best_of_n_policy(ref, rewards, 1), ref)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_best_of_n_stays_below_the_bound_and_below_the_optimum(world, n):
    """Its KL is at most log n - (n-1)/n, and the tilt π* of the same KL has at least its reward."""
    ref_logps = world.logps_of(world.ref_logits).sum(-1)
    logps = best_of_n_policy(ref_logps, REWARDS, n)
    torch.testing.assert_close(logps.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    kl = sequence_kl(logps, ref_logps)
    assert (kl <= math.log(n) - (n - 1) / n).all()
    for beta in (0.1, 0.5, 2.0):  # J ≤ J* for every β at once: the exact curve lies above
        objective = expected_objective(logps, ref_logps, REWARDS, beta)
        assert (objective < optimal_objective(ref_logps, REWARDS, beta)).all()


# ---------------------------------------------------------------------------------------------- gradient identities


def reinforce_gradient(world, rollout, logps, advantages):
    return world.gradient((rollout.weights * reinforce_loss(logps, advantages, rollout.mask)).sum())


def test_reinforce_with_whole_returns(world, rollout, logps, truth):
    """The notes' sampled form, R(s) ∇log p(s), with R(s) = RM(s) - β log ratio."""
    gradient = reinforce_gradient(world, rollout, logps, token_rewards(rollout).sum(1))
    assert relative_error(gradient, truth) < TOLERANCE


def test_reinforce_with_rewards_to_go(world, rollout, logps, truth):
    to_go = token_rewards(rollout).flip(1).cumsum(1).flip(1)
    assert relative_error(reinforce_gradient(world, rollout, logps, to_go), truth) < TOLERANCE


def arbitrary_critic(world):
    """A number for each state, the same in all completions through it, that knows nothing of the rewards."""
    codes = (COMPLETION_IDS + 1).masked_fill(COMPLETION_MASK == 0, 0).double()
    before = torch.cat([torch.zeros(len(codes), 1, dtype=torch.float64), codes[:, :-1]], 1)
    states = (before * torch.tensor([1.0, 3.1, 9.7, 27.3], dtype=torch.float64)).cumsum(1)
    return torch.sin(states + 0.5).repeat(3, 1)


def test_reinforce_with_any_state_baseline(world, rollout, logps, truth):
    to_go = token_rewards(rollout).flip(1).cumsum(1).flip(1)
    gradient = reinforce_gradient(world, rollout, logps, to_go - 3 * arbitrary_critic(world) + 1)
    assert relative_error(gradient, truth) < TOLERANCE


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_with_the_exact_critic_at_any_lambda(world, rollout, logps, truth, lam):
    advantages, _ = generalized_advantage_estimation(token_rewards(rollout), rollout.values, rollout.mask, 1.0, lam)
    assert relative_error(reinforce_gradient(world, rollout, logps, advantages), truth) < TOLERANCE


def test_gae_with_any_critic_needs_lambda_one(world, rollout, logps, truth):
    def error(lam):
        critic = arbitrary_critic(world)
        advantages, _ = generalized_advantage_estimation(token_rewards(rollout), critic, rollout.mask, 1.0, lam)
        return relative_error(reinforce_gradient(world, rollout, logps, advantages), truth)

    assert error(1.0) < TOLERANCE
    assert error(0.95) > 1e-3


def test_first_ppo_step(world, rollout, logps, truth):
    """At π = π_old the clipped surrogate has the policy gradient."""
    advantages, _ = generalized_advantage_estimation(token_rewards(rollout), rollout.values, rollout.mask, 1.0, 0.95)
    losses, clipped = ppo_policy_loss(logps, rollout.logps, advantages)
    loss = (rollout.weights * losses.where(rollout.mask.bool(), 0.0).sum(1)).sum()
    assert relative_error(world.gradient(loss), truth) < TOLERANCE
    assert not clipped.any()


def test_whitened_advantages_keep_the_direction(world, rollout, logps, truth):
    """Minus a constant, over a constant: the gradient times 1/√var."""
    advantages, _ = generalized_advantage_estimation(token_rewards(rollout), rollout.values, rollout.mask, 1.0, 0.95)
    mean, var = mean_and_variance(*masked_moments(advantages, rollout.mask))
    gradient = reinforce_gradient(world, rollout, logps, whiten(advantages, rollout.mask, mean, var))
    assert relative_error(gradient * (var + 1e-8).sqrt(), truth) < TOLERANCE


def test_scaled_rewards_keep_the_direction_and_centred_ones_do_not(world, rollout, logps, truth):
    """Dividing rewards by a constant divides the gradient. Moving each token's reward to mean 0 pays or fines length;
    the cosine is .92, .94, .96."""
    rewards = token_rewards(rollout)
    mean, var = mean_and_variance(*masked_moments(rewards, rollout.mask))
    scaled = scale(rewards, rollout.mask, var)
    centred = whiten(rewards, rollout.mask, mean, var)
    gradient, wrong = (reinforce_gradient(world, rollout, logps, r.sum(1)) for r in (scaled, centred))
    assert relative_error(gradient * (var + 1e-8).sqrt(), truth) < TOLERANCE
    assert cosine(wrong, truth) < 0.97


def test_leave_one_out_over_all_pairs(world, rollout, logps, truth):
    """Two independent answers to each prompt, all 121² pairs weighted by π(y) π(y'): unbiased, without a factor.
    Were its own answer in the mean, the gradient would be halved."""
    returns = token_rewards(rollout).sum(1).view(3, -1)
    probs = 3 * rollout.weights.view(3, -1)
    pairs = torch.stack(torch.broadcast_tensors(returns.unsqueeze(2), returns.unsqueeze(1)), -1)
    advantages = leave_one_out_advantages(pairs.flatten(), 2).view_as(pairs)[..., 0]
    expected = (advantages * probs.unsqueeze(1)).sum(2).flatten()
    assert relative_error(reinforce_gradient(world, rollout, logps, expected), truth) < TOLERANCE


def test_micro_batches_add_up(world, rollout, logps, truth):
    """Seven micro-batches of unequal token counts, each divided by the whole step's count, have the gradient of the
    whole. Divided by their own counts they have another."""
    advantages = rollout.weights.unsqueeze(1) * token_rewards(rollout).sum(1, keepdim=True)
    losses, _ = ppo_policy_loss(logps, rollout.logps, advantages)
    parts = [(losses[i::7], rollout.mask[i::7]) for i in range(7)]
    num_tokens = rollout.mask.sum()
    right = world.gradient(sum(masked_sum(x, m, num_tokens) for x, m in parts)) * num_tokens
    wrong = world.gradient(sum(masked_mean(x, m) for x, m in parts)) * num_tokens / 7
    assert relative_error(right, truth) < TOLERANCE
    assert relative_error(wrong, truth) > 1e-3


# ---------------------------------------------------------------------------------------------- KL: where which one


def test_k1_in_the_reward(world, rollout, logps, kl_truth):
    rewards = kl_penalized_rewards(0 * rollout.scores, rollout.logps, rollout.ref_logps, rollout.mask, BETA)
    assert relative_error(reinforce_gradient(world, rollout, logps, rewards.sum(1)), kl_truth) < TOLERANCE


def test_k2_of_sequences_as_a_loss(world, rollout, logps, kl_truth):
    k2 = kl_k2(logps.sum(1), rollout.ref_logps.sum(1))
    assert relative_error(world.gradient(BETA * (rollout.weights * k2).sum()), kl_truth) < TOLERANCE


def test_rao_blackwellised_loss(world, rollout, logps, kl_truth):
    logits = policy_logits(logits_fn(world.model)) / world.temperature
    token_kl = kl_full(logits, world.ref_logits / world.temperature).flatten(0, 1)
    losses = rao_blackwellized_kl_loss(token_kl, logps, rollout.mask)
    assert relative_error(world.gradient(BETA * (rollout.weights * losses).sum()), kl_truth) < TOLERANCE
    expected_kl = (rollout.weights * token_kl.where(rollout.mask.bool(), 0.0).sum(1)).sum()
    k1 = (rollout.weights * kl_k1(logps, rollout.ref_logps).sum(1)).sum()
    torch.testing.assert_close(expected_kl, k1)


def test_k3_of_sequences_is_the_reverse_kl(world, rollout, logps):
    """As a loss, k3 has the gradient of KL(π_ref ‖ π), the other direction."""
    ref_logps = world.logps_of(world.ref_logits).sum(-1)
    reverse = world.gradient(sequence_kl(ref_logps, logps.sum(1).view(3, -1)).mean())
    logps = world.logps_of(policy_logits(logits_fn(world.model))).flatten(0, 1)
    k3 = kl_k3(logps.sum(1), rollout.ref_logps.sum(1))
    assert relative_error(world.gradient((rollout.weights * k3).sum()), reverse) < TOLERANCE


def test_k1_as_a_loss_has_no_gradient(world, rollout, logps, kl_truth):
    gradient = world.gradient(BETA * (rollout.weights * kl_k1(logps, rollout.ref_logps).sum(1)).sum())
    assert gradient.norm() < TOLERANCE * kl_truth.norm()


def wrong_kl_gradients(world, rollout, logps):
    token_k2, token_k3 = (k(logps, rollout.ref_logps).sum(1) for k in (kl_k2, kl_k3))
    k3_reward = -BETA * kl_k3(rollout.logps, rollout.ref_logps).sum(1)
    logits = policy_logits(logits_fn(world.model)) / world.temperature
    token_kl = kl_full(logits, world.ref_logits / world.temperature).flatten(0, 1).where(rollout.mask.bool(), 0.0)
    own_token = -BETA * kl_k1(rollout.logps, rollout.ref_logps)
    return {
        "k2 token by token": lambda: world.gradient((rollout.weights * token_k2).sum()),
        "k3 token by token": lambda: world.gradient((rollout.weights * token_k3).sum()),
        "k3 in the reward": lambda: reinforce_gradient(world, rollout, logps, k3_reward),
        "full KL without its score term": lambda: world.gradient((rollout.weights * token_kl.sum(1)).sum()),
        "k1 on its own token only": lambda: reinforce_gradient(world, rollout, logps, own_token),
    }


@pytest.mark.parametrize(
    ("name", "cosine_below"),
    [
        ("k2 token by token", 0.99),
        ("k3 token by token", 0.99),
        ("k3 in the reward", 0.5),
        ("full KL without its score term", 0.99),
        ("k1 on its own token only", 0.99),
    ],
)
def test_wrong_kl_has_another_direction(world, rollout, logps, kl_truth, name, cosine_below):
    """Cosine to the exact gradient of the KL, on (Llama, GPT-2, Llama at T = 0.7): k2 token by token .71, .98, -.02;
    k3 token by token .76, .99, .06; k3 in the reward -.38, -.92, .41. The full KL without its score term and k1 on its
    own token are, in expectation, the same partial gradient as k2 token by token."""
    assert cosine(wrong_kl_gradients(world, rollout, logps)[name](), kl_truth) < cosine_below


def test_wrong_weights_have_another_direction(world, rollout, logps, truth):
    """1/length a sequence: cosine .55, .88, .08 on (Llama, GPT-2, Llama at T = 0.7). Log-probs at another temperature
    than the samples': .97, .99, .95, and a wrong length besides."""
    returns = token_rewards(rollout).sum(1)
    by_length = reinforce_gradient(world, rollout, logps, returns / rollout.mask.sum(1))
    logits = policy_logits(logits_fn(world.model))
    other_temperature = world.logps_of(logits, 1.0 if world.temperature != 1 else 0.7).flatten(0, 1)
    mismatched = reinforce_gradient(world, rollout, other_temperature, returns)
    assert cosine(by_length, truth) < 0.9
    assert cosine(mismatched, truth) < 0.99
    assert relative_error(mismatched, truth) > 0.3


# ---------------------------------------------------------------------------------------------- the critic


def test_value_loss_is_least_at_the_true_critic(rollout):
    """Its expected gradient vanishes at the exact V and points back to it from anywhere else."""
    returns = generalized_advantage_estimation(token_rewards(rollout), rollout.values, rollout.mask, 1.0, 0.95)[1]

    def gradient(offset):
        values = (rollout.values + offset).requires_grad_()
        losses, _ = ppo_value_loss(values, values.detach(), returns)
        (grad,) = torch.autograd.grad(
            (rollout.weights.unsqueeze(1) * losses).where(rollout.mask.bool(), 0).sum(), values
        )
        # All completions share the first state: its gradient is the sum over them.
        return grad[:, 0].view(3, -1).sum(1)

    assert gradient(0.0).abs().max() < 1e-12
    torch.testing.assert_close(gradient(0.1), torch.full((3,), 0.1 / 3, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- preferences


def all_pairs(x):
    """(B, N) -> the first and the second of all pairs, (B, N, N) each."""
    return torch.broadcast_tensors(x.unsqueeze(2), x.unsqueeze(1))


def population_loss(loss, logps, ref_logps, preferred, weights, **kwargs):
    """E over pairs y, y' ~ weights and over labels: y preferred with probability `preferred`."""
    (a, b), (ref_a, ref_b), (wa, wb) = all_pairs(logps), all_pairs(ref_logps), all_pairs(weights)
    won, lost = loss(a, b, ref_a, ref_b, **kwargs)[0], loss(b, a, ref_b, ref_a, **kwargs)[0]
    return (wa * wb * (preferred * won + (1 - preferred) * lost)).sum()


def minimise(function, start, steps=60):
    """LBFGS to the bottom of a smooth function, from `start`."""
    x = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=steps * 20, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = function(x)
        value.backward()
        return value

    optimizer.step(closure)
    return x.detach()


@pytest.fixture(scope="module")
def preferences():
    """π_ref of a real model over the 121 answers to each prompt, true rewards, and the Bradley-Terry label law."""
    ref_logps = (reference := World.make("llama")).logps_of(reference.ref_logits).sum(-1)
    first, second = all_pairs(REWARDS)
    return ref_logps, torch.sigmoid(first - second), torch.full_like(ref_logps, 1 / ref_logps.shape[1])


def fit(loss, preferences, preferred=None, **kwargs):
    """Log-probs (B, N) of the policy that minimises the population loss, over all policies, from π_ref."""
    ref_logps, law, weights = preferences

    def function(logits):
        logps = torch.log_softmax(logits, -1)
        return population_loss(loss, logps, ref_logps, law if preferred is None else preferred, weights, **kwargs)

    return torch.log_softmax(minimise(function, ref_logps), -1)


def test_dpo_recovers_the_optimal_policy(preferences):
    """Labels by Bradley-Terry on RM: the policy that minimises DPO is π* of RM and β. Z(x) has cancelled: no term of
    the loss knows it, and each prompt's Z differs."""
    ref_logps, *_ = preferences
    best = optimal_policy(ref_logps, REWARDS, BETA)
    assert sequence_kl(ref_logps, best).min() > 0.3
    assert sequence_kl(fit(dpo_loss, preferences, beta=BETA), best).max() < 1e-8
    normalisers = optimal_objective(ref_logps, REWARDS, BETA)
    assert normalisers.max() - normalisers.min() > 0.05


def test_dpo_gradient_vanishes_at_the_optimum_of_a_real_model(world):
    """With π_ref chosen so that the model's own π is its optimum, no parameter wants to move; at β/2 they do."""
    logps = world.logps_of(policy_logits(logits_fn(world.model))).sum(-1)
    ref_logps = torch.log_softmax(logps.detach() - REWARDS / BETA, -1)
    first, second = all_pairs(REWARDS)
    law, weights = torch.sigmoid(first - second), torch.full_like(ref_logps, 1 / ref_logps.shape[1])
    at_optimum, elsewhere = (
        world.gradient(population_loss(dpo_loss, policy, ref_logps, law, weights, beta=beta)).norm()
        for policy, beta in ((logps, BETA), (world.logps_of(policy_logits(logits_fn(world.model))).sum(-1), BETA / 2))
    )
    assert at_optimum < 1e-12
    assert elsewhere > 1e-2


def test_smoothed_dpo_is_pulled_to_the_reference(preferences):
    """cDPO with clean labels does not end at π*: it is closer to π_ref."""
    ref_logps, *_ = preferences
    best = optimal_policy(ref_logps, REWARDS, BETA)
    smoothed = fit(dpo_loss, preferences, beta=BETA, label_smoothing=0.2)
    assert sequence_kl(smoothed, best).min() > 0.05
    assert (sequence_kl(smoothed, ref_logps) < sequence_kl(best, ref_logps)).all()


def test_robust_dpo_undoes_flips(preferences):
    """Labels flipped with probability 0.2: robust DPO that knows it ends at π*, plain DPO does not."""
    ref_logps, law, _ = preferences
    best, flipped = optimal_policy(ref_logps, REWARDS, BETA), 0.8 * law + 0.2 * (1 - law)
    robust = fit(robust_dpo_loss, preferences, flipped, beta=BETA, label_smoothing=0.2)
    assert sequence_kl(robust, best).max() < 1e-8
    assert sequence_kl(fit(dpo_loss, preferences, flipped, beta=BETA), best).min() > 0.05


def test_ipo_has_its_own_optimum(preferences):
    """π ∝ π_ref exp(E_y'[p(y ≻ y')] / β), y' from the pairs' distribution: not π* of the reward."""
    ref_logps, law, weights = preferences
    expected = optimal_policy(ref_logps, (law * weights.unsqueeze(1)).sum(2), BETA)
    fitted = fit(ipo_loss, preferences, beta=BETA)
    assert sequence_kl(fitted, expected).max() < 1e-8
    assert sequence_kl(fitted, optimal_policy(ref_logps, REWARDS, BETA)).min() > 0.05


def test_reward_model_recovers_the_reward(preferences):
    """Bradley-Terry in the population gives RM up to a constant a prompt, its loss the labels' entropy, its accuracy
    Bayes'. From 40 000 noisy labels it is within 0.005 of Bayes accuracy."""
    _, law, weights = preferences
    wa, wb = all_pairs(weights)

    def loss(rewards, preferred):
        a, b = all_pairs(rewards)
        return (wa * wb * (preferred * bradley_terry_loss(a, b) + (1 - preferred) * bradley_terry_loss(b, a))).sum()

    def accuracy(rewards):
        a, b = all_pairs(rewards)
        off_diagonal = ~torch.eye(rewards.shape[1], dtype=torch.bool)
        return torch.where(a > b, law, 1 - law)[:, off_diagonal].mean().item()

    fitted = minimise(lambda r: loss(r, law), torch.zeros_like(REWARDS))
    difference = fitted - REWARDS
    assert (difference - difference.mean(1, keepdim=True)).abs().max() < 1e-6
    bayes_loss = -(wa * wb * (law * law.log() + (1 - law) * (1 - law).log())).sum()
    torch.testing.assert_close(loss(fitted, law), bayes_loss)
    assert accuracy(fitted) == pytest.approx(accuracy(REWARDS), abs=1e-9)

    g = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, (40_000,), generator=g)
    a, b = torch.randint(REWARDS.shape[1], (2, 40_000), generator=g)
    a_wins = torch.rand(40_000, generator=g, dtype=torch.float64) < law[prompt, a, b]
    chosen, rejected = a.where(a_wins, b), b.where(a_wins, a)
    ridge = 1e-4
    trained = minimise(
        lambda r: bradley_terry_loss(r[prompt, chosen], r[prompt, rejected]).mean() + ridge * r.square().mean(),
        torch.zeros_like(REWARDS),
    )
    assert accuracy(trained) > accuracy(REWARDS) - 0.005


def test_eos_is_part_of_the_completion():
    """The trap of pad = EOS: a mask recomputed as ids != pad would lose every EOS action."""
    recomputed = (COMPLETION_IDS != EOS).long()
    assert (COMPLETION_MASK - recomputed).sum() == sum(3**k for k in range(HORIZON))
