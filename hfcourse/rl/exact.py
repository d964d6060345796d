"""Exact truth on problems small enough to enumerate: every completion, its probability, the optimal policy.

With a small vocabulary and horizon the expectations of the course are finite sums, so that an objective, its gradient
and its optimum are numbers to compare with, not curves to hope for. Shapes: B prompts, N completions of at most T
tokens, V tokens in the vocabulary.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from hfcourse.logprobs import token_logps
from hfcourse.precision import at_least_float32

LogitsFn = Callable[[Tensor, Tensor], Tensor]


def enumerate_completions(
    token_ids: Sequence[int], eos_token_id: int, max_completion_length: int
) -> tuple[Tensor, Tensor]:
    """All completions: those that end in EOS after 1 to T tokens, and those cut off at T tokens without it.

    They are the leaves of a tree, so their probabilities under any policy over `token_ids` sum to 1.

    Args:
        token_ids: the tokens a policy can produce, EOS among them.
        eos_token_id: the token that ends a completion, and is a part of it.
        max_completion_length: T.

    Returns:
        completion_ids (N, T), filled up with EOS, and completion_mask (N, T), 1 on the tokens chosen, final EOS
        included. N = Σ_{k<T} (V-1)^k + (V-1)^T.
    """
    others = [token for token in token_ids if token != eos_token_id]
    length = max_completion_length
    ended = [[*p, eos_token_id] for k in range(length) for p in product(others, repeat=k)]
    completions = ended + [list(p) for p in product(others, repeat=length)]
    completion_ids = torch.tensor([c + [eos_token_id] * (length - len(c)) for c in completions])
    lengths = torch.tensor([len(c) for c in completions])
    return completion_ids, (torch.arange(length) < lengths.unsqueeze(1)).long()


def enumerated_logits(
    logits_fn: LogitsFn, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor
) -> Tensor:
    """Logits of every token of every completion of every prompt, in one call of the model.

    Args:
        logits_fn: (input_ids (B·N, P+T), attention_mask (B·N, P+T)) -> logits (B·N, P+T, V). Prompts are padded on the
            left, as for generation: a model with absolute positions needs position ids made from the mask.
        prompt_ids, prompt_mask: (B, P).
        completion_ids, completion_mask: (N, T), from [`enumerate_completions`].

    Returns:
        (B, N, T, V): `[b, n, t]` predicts token t of completion n, so it is read at position P + t - 1.
    """
    num_prompts, num_completions = len(prompt_ids), len(completion_ids)
    input_ids = torch.cat(
        [prompt_ids.repeat_interleave(num_completions, 0), completion_ids.repeat(num_prompts, 1)], dim=1
    )
    attention_mask = torch.cat(
        [prompt_mask.repeat_interleave(num_completions, 0), completion_mask.repeat(num_prompts, 1)], dim=1
    )
    logits = logits_fn(input_ids, attention_mask)[:, prompt_ids.shape[1] - 1 : -1]
    return logits.unflatten(0, (num_prompts, num_completions))


def enumerated_logps(
    logits: Tensor, completion_ids: Tensor, completion_mask: Tensor, temperature: float = 1.0
) -> Tensor:
    """Per-token log-probs (B, N, T) from [`enumerated_logits`]; their sum over T is log π(y|x)."""
    labels = completion_ids.expand(logits.shape[:-1])
    return token_logps(logits, labels, temperature)[0].where(completion_mask.bool(), 0.0)


def state_values(logps: Tensor, rewards: Tensor, completion_ids: Tensor, completion_mask: Tensor) -> Tensor:
    """The true critic: V(s_t) = E[Σ_{u≥t} r_u | the first t tokens], over the completions that share them.

    Args:
        logps: (B, N), log π(y|x).
        rewards: (B, N, T), r_t.
        completion_ids, completion_mask: (N, T), from [`enumerate_completions`].

    Returns:
        (B, N, T), 0 where the mask is 0.
    """
    to_go = rewards.flip(-1).cumsum(-1).flip(-1)
    tokens = completion_ids.masked_fill(completion_mask == 0, -1)
    probs = logps.exp()
    values = torch.zeros_like(rewards)
    for t in range(tokens.shape[1]):
        # Rows of the same group passed through the same state s_t.
        groups = torch.unique(tokens[:, :t], dim=0, return_inverse=True)[1] if t else torch.zeros_like(tokens[:, 0])
        same_state = F.one_hot(groups).to(probs.dtype)
        state_probs = probs @ same_state
        values[..., t] = ((probs * to_go[..., t]) @ same_state / state_probs) @ same_state.T
    return values.where(completion_mask.bool(), 0.0)


def optimal_policy(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """π*(y|x) = π_ref(y|x) exp(r(x, y) / β) / Z(x), Eq. 4 of https://huggingface.co/papers/2305.18290.

    The maximiser of [`expected_objective`]; the course's (2.5) is this equation solved for r.

    Args:
        ref_logps: (..., N), log π_ref(y|x) of all completions; -inf pads, whatever the reward there.
        rewards: (..., N), r(x, y).
        beta: β.

    Returns:
        (..., N), log π*(y|x), -inf where padded.
    """
    return F.log_softmax(_tilted(ref_logps, rewards, beta), dim=-1)


def optimal_objective(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """J* = β log Z(x) = β log Σ_y π_ref(y|x) exp(r(x, y) / β), the objective of [`optimal_policy`]. Shape (...)."""
    return beta * _tilted(ref_logps, rewards, beta).logsumexp(-1)


def best_of_n_policy(ref_logps: Tensor, rewards: Tensor, n: int) -> Tensor:
    """The law of the best of n answers drawn from π_ref: what reranking does without any training.

        q(y|x) = π_ref(y|x) Σ_{i<n} a^i b^(n-1-i)        a = P(r' ≤ r(x, y)), b = P(r' < r(x, y)) under π_ref

    which is π_ref(y|x) (a^n - b^n) / (a - b): the best is y or its equal, and equals are drawn in their proportions.
    KL(q ‖ π_ref) ≤ log n - (n - 1)/n, with equality only where no answer has an atom (Beirami et al.,
    https://huggingface.co/papers/2401.01879).

    Args:
        ref_logps: (..., N), log π_ref(y|x) of all completions; -inf pads, whatever the reward there.
        rewards: (..., N), r(x, y).
        n: how many answers are drawn.

    Returns:
        (..., N), log q(y|x), -inf where padded.
    """
    probs = at_least_float32(ref_logps).exp()
    others, own = rewards.unsqueeze(-2), rewards.unsqueeze(-1)
    at_most, below = ((probs.unsqueeze(-2) * is_worse).sum(-1) for is_worse in (others <= own, others < own))
    return ref_logps + sum(at_most**i * below ** (n - 1 - i) for i in range(n)).log()


def expected_objective(logps: Tensor, ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """J(π) = Σ_y π(y|x) [r(x, y) - β log(π(y|x) / π_ref(y|x))] (course notes, 2.3).

    For every π: J* - J(π) = β KL(π ‖ π*), which scores any method in nats.

    Args:
        logps, ref_logps, rewards: (..., N) of all completions; -inf in `logps` pads.
        beta: β.

    Returns:
        (...), differentiable.
    """
    expected_reward = (at_least_float32(logps).exp() * rewards.masked_fill(logps.isneginf(), 0.0)).sum(-1)
    return expected_reward - beta * sequence_kl(logps, ref_logps)


def sequence_kl(logps: Tensor, other_logps: Tensor) -> Tensor:
    """KL(π ‖ π') = Σ_y π(y|x) log(π(y|x) / π'(y|x)) over all completions (..., N) -> (...); 0 log 0 = 0."""
    logps, other_logps = at_least_float32(logps), at_least_float32(other_logps)
    log_ratio = (logps - other_logps).masked_fill(logps.isneginf(), 0.0)
    return (logps.exp() * log_ratio).sum(-1)


def _tilted(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    ref_logps, rewards = at_least_float32(ref_logps), at_least_float32(rewards)
    return (ref_logps + rewards / beta).masked_fill(ref_logps.isneginf(), -torch.inf)
