"""The world of the exact tests: tiny Hugging Face models in float64, three prompts of unequal length, a reward table.

EOS pads (the trap for masks recomputed from ids), prompts are padded on the left (the trap for position ids), and
completions end early or are cut (the trap for forged EOS and for the slot of the score).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hfcourse.rl import (
    enumerate_completions,
    enumerated_logits,
    enumerated_logps,
    expected_objective,
    kl_penalized_rewards,
    optimal_policy,
    state_values,
)

VOCAB, EOS, HORIZON, BETA = 4, 0, 4, 0.5
PROMPT_IDS = torch.tensor([[EOS, EOS, 1], [EOS, 2, 3], [3, 1, 2]])
PROMPT_MASK = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 1]])
COMPLETION_IDS, COMPLETION_MASK = enumerate_completions(range(VOCAB), EOS, HORIZON)
REWARDS = torch.randn(3, len(COMPLETION_IDS), generator=torch.Generator().manual_seed(7), dtype=torch.float64)

CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=EOS,
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=EOS, eos_token_id=EOS,
        pad_token_id=EOS, resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3,
    ),
}  # fmt: skip


def make_model(architecture: str, seed: int):
    """A float64 model in eval mode, its weights large enough for distributions far from uniform."""
    # Llama's own norm computes in float32 whatever the model's dtype: gradients would agree to 1e-7 only.
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture], attn_implementation="sdpa").double().eval()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, LlamaRMSNorm):
                setattr(module, name, torch.nn.RMSNorm(16, child.variance_epsilon, dtype=torch.float64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def logits_fn(model):
    """Position ids counted from the first real token, as left padding asks."""

    def call(input_ids, attention_mask):
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
        return model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids).logits

    return call


def policy_logits(call) -> Tensor:
    return enumerated_logits(call, PROMPT_IDS, PROMPT_MASK, COMPLETION_IDS, COMPLETION_MASK)


@dataclass
class World:
    """A policy and a reference with everything that is exactly known of them; tensors over (prompts · completions)."""

    model: torch.nn.Module
    ref_logits: Tensor  # (B, N, T, V)
    temperature: float = 1.0

    @classmethod
    def make(cls, architecture: str, temperature: float = 1.0) -> "World":
        with torch.no_grad():
            ref_logits = policy_logits(logits_fn(make_model(architecture, seed=1)))
        return cls(make_model(architecture, seed=2), ref_logits, temperature)

    def logps_of(self, logits: Tensor, temperature: float | None = None) -> Tensor:
        """(B, N, T)."""
        return enumerated_logps(logits, COMPLETION_IDS, COMPLETION_MASK, temperature or self.temperature)

    def rollout(self) -> "Rollout":
        """Every completion of every prompt, once, with its probability as its weight."""
        with torch.no_grad():
            logps = self.logps_of(policy_logits(logits_fn(self.model)))
        ref_logps = self.logps_of(self.ref_logits)
        mask = COMPLETION_MASK.expand(3, -1, -1)
        rewards = kl_penalized_rewards(
            REWARDS.flatten(), logps.flatten(0, 1), ref_logps.flatten(0, 1), mask.flatten(0, 1), BETA
        )
        values = state_values(logps.sum(-1), rewards.view_as(logps), COMPLETION_IDS, COMPLETION_MASK)
        return Rollout(
            weights=(logps.sum(-1).exp() / 3).flatten(),
            scores=REWARDS.flatten(),
            logps=logps.flatten(0, 1),
            ref_logps=ref_logps.flatten(0, 1),
            mask=mask.flatten(0, 1),
            values=values.flatten(0, 1),
        )

    def objective(self) -> Tensor:
        """Exact J, the mean over the prompts, with a gradient."""
        logps = self.logps_of(policy_logits(logits_fn(self.model))).sum(-1)
        return expected_objective(logps, self.logps_of(self.ref_logits).sum(-1), REWARDS, BETA).mean()

    def optimum(self) -> Tensor:
        """log π* (B, N)."""
        return optimal_policy(self.logps_of(self.ref_logits).sum(-1), REWARDS, BETA)

    def gradient(self, scalar: Tensor) -> Tensor:
        """Gradient over all parameters as one vector; parameters that do not matter count 0."""
        grads = torch.autograd.grad(scalar, list(self.model.parameters()), retain_graph=True, allow_unused=True)
        return torch.cat([
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(self.model.parameters(), grads, strict=True)
        ])  # fmt: skip


@dataclass
class Rollout:
    """What a trainer holds after sampling, and the weight of each row, which sampling would only estimate."""

    weights: Tensor  # (B·N,), π(y|x) / B
    scores: Tensor  # (B·N,)
    logps: Tensor  # (B·N, T), of the policy that sampled, without gradient
    ref_logps: Tensor  # (B·N, T)
    mask: Tensor  # (B·N, T)
    values: Tensor  # (B·N, T), of the exact critic


def relative_error(gradient: Tensor, truth: Tensor) -> float:
    return ((gradient - truth).norm() / truth.norm()).item()


def cosine(gradient: Tensor, truth: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(gradient, truth, dim=0).item()
