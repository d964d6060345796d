"""Log-probabilities of given tokens, from logits or, without ever holding all logits, from hidden states."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hfcourse.precision import at_least_float32

IGNORE_INDEX = -100

# Its exponential is 0 in every precision, and it may be multiplied by any gradient.
LOG_OF_ZERO = -1e4

# Logits alive at once by default: 128 MiB in float32. Below it one plain product is fastest; above it the rows
# go through the head in chunks, and 2^25 still leaves 220 rows a chunk at a vocabulary of 152k.
MAX_LOGITS_PER_CHUNK = 2**25


class TokenStats(NamedTuple):
    """What one pass through the LM head tells about each label; exactly 0 (False) where the mask is 0.

    logps: log π(label | context) at the given temperature.
    entropy: entropy of that distribution, in nats.
    is_top1: whether the label has the largest logit. No gradient.
    mean_logits: mean over the vocabulary of the raw logits, before the temperature. No gradient.
    """

    logps: Tensor
    entropy: Tensor
    is_top1: Tensor
    mean_logits: Tensor


def token_logps(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and the entropy of its distribution, in float32.

        log p(a) = z_a / T - log Σ_v exp(z_v / T)        H = -Σ_v p(v) log p(v)

    Args:
        logits: (..., V), aligned with the labels: `logits[t]` predicts `labels[t]`. -inf forbids a token.
        labels: (...), token ids; -100 gives a log-probability and an entropy of 0.
        temperature: T, the one the tokens were sampled with.

    Returns:
        logps (...) and entropy (...).
    """
    valid = labels != IGNORE_INDEX
    logps, entropy = _LogpsAndEntropy.apply(at_least_float32(logits), labels.where(valid, 0), temperature)
    return logps.where(valid, 0.0), entropy.where(valid, 0.0)


class _LogpsAndEntropy(torch.autograd.Function):
    """The two formulas above with their derivatives written out: with p = softmax(z / T),

        ∂ log p(a) / ∂z_v = (1[v = a] - p_v) / T        ∂H / ∂z_v = -p_v (log p_v + H) / T

    Autograd would keep three tensors of the logits' size until the backward pass and read seven; this keeps one and
    reads two, which is a sixth of a whole training step at a vocabulary 32 times the width. A derivative that nobody
    asks for (the entropy's, mostly) is not computed.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        # A division by 1 would be one more pass over the largest tensor of the whole step.
        log_probs = F.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
        logps = log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        # p log p tends to 0 with p, but 0 · -inf is NaN.
        log_probs.clamp_(min=LOG_OF_ZERO)
        entropy = -log_probs.exp().mul_(log_probs).sum(-1)
        ctx.save_for_backward(log_probs, labels, entropy)
        ctx.temperature = temperature
        return logps, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_logps: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor, None, None]:
        log_probs, labels, entropy = ctx.saved_tensors
        grad = log_probs.exp()
        grad_logps = torch.zeros_like(entropy) if grad_logps is None else grad_logps
        weight = -grad_logps.unsqueeze(-1)
        if grad_entropy is not None:
            weight = (log_probs + entropy.unsqueeze(-1)).mul_(-grad_entropy.unsqueeze(-1)).add_(weight)
        grad.mul_(weight).scatter_add_(-1, labels.unsqueeze(-1), grad_logps.unsqueeze(-1))
        return grad if ctx.temperature == 1 else grad.div_(ctx.temperature), None, None


def token_logps_from_hidden(
    hidden: Tensor,
    lm_head_weight: Tensor,
    labels: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    chunk_size: int | None = None,
    lm_head_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`token_logps` of `hidden @ lm_head_weight.T`; arguments as in [`token_stats_from_hidden`].

    Returns:
        logps (...) and entropy (...), exactly 0 where the mask is 0.
    """
    stats = token_stats_from_hidden(hidden, lm_head_weight, labels, mask, temperature, chunk_size, lm_head_bias)
    return stats.logps, stats.entropy


def token_stats_from_hidden(
    hidden: Tensor,
    lm_head_weight: Tensor,
    labels: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    chunk_size: int | None = None,
    lm_head_bias: Tensor | None = None,
) -> TokenStats:
    """Statistics of the labels under the LM head, holding at most one chunk of logits at a time.

    Only positions with mask 1 meet the head. When they are more than one chunk, each chunk's logits are thrown away
    and computed again in the backward pass, so memory is O(chunk · V) instead of O(tokens · V). The product runs in
    the dtype of the model (or of autocast), as the model's own head does; the softmax runs in float32.

    Args:
        hidden: (..., d), last hidden states; `hidden[t]` predicts `labels[t]`.
        lm_head_weight: (V, d).
        labels: (...), token ids; anything where the mask is 0.
        mask: (...), 1 where the label counts.
        temperature: the one the tokens were sampled with.
        chunk_size: tokens a chunk; by default as many as keep a chunk within 2^25 logits.
        lm_head_bias: (V,), for heads that have one.

    Returns:
        [`TokenStats`], each shaped like the labels. With an all-zero mask, zeros that still carry a (zero) gradient,
        so that every process of a distributed run takes part in the backward pass.
    """
    mask = mask.bool()
    rows, row_labels = hidden[mask], labels[mask]
    chunk_size = chunk_size or max(1, MAX_LOGITS_PER_CHUNK // lm_head_weight.shape[0])
    if len(rows) <= chunk_size:
        columns = _row_stats(rows, lm_head_weight, lm_head_bias, row_labels, temperature)
    else:
        chunks = [
            checkpoint(_row_stats, r, lm_head_weight, lm_head_bias, y, temperature, use_reentrant=False)
            for r, y in zip(rows.split(chunk_size), row_labels.split(chunk_size), strict=True)
        ]
        columns = [torch.cat(column) for column in zip(*chunks, strict=True)]
    return TokenStats(*(column.new_zeros(mask.shape).masked_scatter(mask, column) for column in columns))


def _row_stats(
    rows: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    logits = at_least_float32(F.linear(rows, weight, bias))
    with torch.no_grad():
        # `max` with its index is four times as fast as `argmax` on a CPU.
        is_top1, mean_logits = logits.max(-1).indices == labels, logits.mean(-1)
    return *token_logps(logits, labels, temperature), is_top1, mean_logits
