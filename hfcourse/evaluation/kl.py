"""How far a policy has moved from its reference: the KL of whole completions, along the policy's own samples."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hfcourse.errors import InputError
from hfcourse.evaluation.generation import Completion
from hfcourse.rl import kl_full

# Both models' logits of a batch are alive at once: 2 x 512 MiB in float32.
MAX_LOGITS_PER_BATCH = 2**27


@torch.inference_mode()
def sequence_kl(
    model: PreTrainedModel,
    ref_model: PreTrainedModel,
    completions: list[Completion],
    ref_prompt_ids: list[list[int]] | None = None,
    temperature: float = 1.0,
) -> list[float]:
    """One unbiased estimate a completion of KL(π(·|x) ‖ π_ref(·|x)), in nats a sequence.

        KL = E_{y~π} Σ_t KL( π(·|x, y_<t) ‖ π_ref(·|x, y_<t) )

    Each state's KL is summed over the whole vocabulary; only the states are sampled. That is the Rao-Blackwellised
    form of Σ_t log π/π_ref: the same mean, less variance, never negative (https://huggingface.co/papers/2504.10637).

    Args:
        model: π, which wrote the completions at this temperature.
        ref_model: π_ref, over the same vocabulary.
        completions: of [`hfcourse.evaluation.generate`].
        ref_prompt_ids: what π_ref reads, where it is not what π read (few-shot examples are no part of π_ref's x).
        temperature: both distributions' (softmax of logits / temperature).

    Raises:
        InputError: a temperature of 0 (the KL along greedy answers is no expectation), or another vocabulary.
    """
    if temperature <= 0:
        raise InputError("temperature: must exceed 0 to measure the KL, which is a mean over samples of the policy")
    vocab_size, ref_vocab_size = model.config.vocab_size, ref_model.config.vocab_size
    if vocab_size != ref_vocab_size:
        raise InputError(f"ref_model: has {ref_vocab_size} tokens, the model {vocab_size}; they need one vocabulary")
    prompts = [completion.prompt_ids for completion in completions]
    ref_prompts = prompts if ref_prompt_ids is None else ref_prompt_ids
    answers = [completion.ids for completion in completions]
    lengths = [max(len(p), len(q)) + len(y) for p, q, y in zip(prompts, ref_prompts, answers, strict=True)]
    totals = [0.0] * len(completions)
    for rows in batches_by_length(lengths, MAX_LOGITS_PER_BATCH // vocab_size):
        chosen = [answers[i] for i in rows]
        logits, mask = completion_logits(model, [prompts[i] for i in rows], chosen)
        ref_logits, ref_mask = completion_logits(ref_model, [ref_prompts[i] for i in rows], chosen)
        token_kl = kl_full(logits[mask] / temperature, (ref_logits[ref_mask] / temperature).to(logits.device))
        for i, kl in zip(rows, token_kl.split([len(y) for y in chosen]), strict=True):
            totals[i] = kl.sum().item()
    return totals


def completion_logits(
    model: PreTrainedModel, prompts: list[list[int]], completions: list[list[int]]
) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) of one forward pass and a mask (B, T) of the positions that predict a completion's token.

    `logits[mask]` has the completions' tokens in order, row after row. Padding is on the right, where it is not seen.
    """
    was_training = model.training
    model.eval()
    rows = [torch.tensor(p + y) for p, y in zip(prompts, completions, strict=True)]
    input_ids = pad_sequence(rows, batch_first=True).to(model.device)
    attention_mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
    logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
    model.train(was_training)
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for i, (p, y) in enumerate(zip(prompts, completions, strict=True)):
        mask[i, len(p) - 1 : len(p) + len(y) - 1] = True
    return logits, mask


def batches_by_length(lengths: list[int], max_tokens: int) -> list[list[int]]:
    """Row numbers in batches of like length, each of at most `max_tokens` tokens with its padding (or of one row)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        # Sorted upwards, the new row is the longest and sets the width of its batch.
        if batches and (len(batches[-1]) + 1) * lengths[i] <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
