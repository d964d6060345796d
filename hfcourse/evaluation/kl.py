"""How far a policy has moved from its reference, along its own completions."""

import torch
from transformers import PreTrainedModel

from hfcourse.evaluation.generation import Completion
from hfcourse.rl import kl_full


@torch.no_grad()
def sequence_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    completions: list[Completion],
    temperature: float = 1.0,
    batch_size: int = 32,
) -> list[float]:
    """Σ_t KL(π(·|s_t) ‖ π_ref(·|s_t)) of each completion sampled from π, in nats; their mean estimates the KL.

    Summing the KL of whole next-token distributions instead of the log-ratios of the sampled tokens leaves the mean as
    it is and lowers its variance (Rao-Blackwell), and it cannot be negative.
    """
    order = sorted(range(len(completions)), key=lambda i: len(completions[i].prompt_ids) + len(completions[i].ids))
    values = [0.0] * len(completions)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        sequences = [completions[i].prompt_ids + completions[i].ids for i in rows]
        width = max(map(len, sequences))
        input_ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences], device=policy.device)
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=policy.device)
        keep = max(width - len(completions[i].prompt_ids) + 1 for i in rows)  # completions and the states before them
        logits, ref_logits = (
            model(input_ids=input_ids, attention_mask=mask, logits_to_keep=keep).logits / temperature
            for model in (policy, reference)
        )
        token_kl = kl_full(logits, ref_logits)
        for row, i in enumerate(rows):
            first = len(completions[i].prompt_ids) - 1 - (width - keep)
            values[i] = token_kl[row, first : first + len(completions[i].ids)].sum().item()
    return values
