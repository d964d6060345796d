"""The KL of whole completions against the exact one, by enumeration of all completions of a tiny vocabulary."""

import itertools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hfcourse.errors import InputError
from hfcourse.evaluation.generation import Completion
from hfcourse.evaluation.kl import batches_by_length, sequence_kl

V, T = 3, 2
PROMPT = [0, 1]


def three_token_llama(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.8,
    )
    return LlamaForCausalLM(config).eval()


def all_completions():
    return [Completion(PROMPT, list(ids), "", True) for ids in itertools.product(range(V), repeat=T)]


@torch.no_grad()
def logp(model, prompt, ids, temperature=1.0):
    logits = model(torch.tensor([prompt + list(ids)])).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).sum().item()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_its_mean_over_all_completions_is_the_exact_kl(temperature):
    """Σ_y π(y) Σ_t KL_t = Σ_y π(y) log(π(y)/π_ref(y)), both sums over all 9 completions. Each addend is ≥ 0."""
    policy, reference = three_token_llama(0), three_token_llama(1)
    completions = all_completions()
    estimates = sequence_kl(policy, reference, completions, temperature=temperature)
    logps = [logp(policy, PROMPT, c.ids, temperature) for c in completions]
    ref_logps = [logp(reference, PROMPT, c.ids, temperature) for c in completions]
    p = torch.tensor(logps, dtype=torch.float64).exp()
    exact = (p * (torch.tensor(logps) - torch.tensor(ref_logps))).sum().item()
    assert exact > 0.1
    assert (p * torch.tensor(estimates)).sum().item() == pytest.approx(exact, rel=1e-5)
    assert min(estimates) >= 0
    # The plain log-ratio has the same mean and more variance: that is what the whole-vocabulary sum is for.
    ratios = torch.tensor(logps) - torch.tensor(ref_logps)
    assert (p * (torch.tensor(estimates) - exact) ** 2).sum() < (p * (ratios - exact) ** 2).sum()


def test_a_policy_is_no_distance_from_itself():
    model = three_token_llama(0)
    assert sequence_kl(model, model, all_completions()) == [0.0] * V**T


def test_the_reference_may_read_another_prompt():
    """π after few-shot examples against π_ref without: each row by hand from its two forward passes."""
    model, reference = three_token_llama(0), three_token_llama(1)
    completions = [Completion([2, 2, 0, 1], [1, 2], "", True), Completion([1, 0, 1], [0], "", True)]
    values = sequence_kl(model, reference, completions, ref_prompt_ids=[[0, 1], [0, 1]])
    for completion, value in zip(completions, values, strict=True):
        total = 0.0
        for t in range(len(completion.ids)):
            p = model(torch.tensor([completion.prompt_ids + completion.ids[:t]])).logits[0, -1].log_softmax(-1)
            q = reference(torch.tensor([[0, 1, *completion.ids[:t]]])).logits[0, -1].log_softmax(-1)
            total += (p.exp() * (p - q)).sum().item()
        assert value == pytest.approx(total, rel=1e-5)


def test_batches_change_nothing(monkeypatch):
    policy, reference = three_token_llama(0), three_token_llama(1)
    completions = [Completion([0] * (1 + i % 3), [1] * (1 + i % 4), "", True) for i in range(7)]
    together = sequence_kl(policy, reference, completions)
    monkeypatch.setattr("hfcourse.evaluation.kl.MAX_LOGITS_PER_BATCH", 1)
    assert sequence_kl(policy, reference, completions) == pytest.approx(together, rel=1e-5)


def test_batches_are_of_like_length_and_within_their_budget():
    """Lengths 5, 1, 9, 2, 2 at 6 tokens: {1, 2, 2} is 3 rows of 2; 5 alone; 9 alone, though it exceeds the budget."""
    assert batches_by_length([5, 1, 9, 2, 2], 6) == [[1, 3, 4], [0], [2]]


def test_what_has_no_kl():
    model = three_token_llama(0)
    with pytest.raises(InputError, match="temperature"):
        sequence_kl(model, model, all_completions(), temperature=0.0)
    other = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "vocab_size": 4}))
    with pytest.raises(InputError, match="one vocabulary"):
        sequence_kl(model, other, all_completions())
