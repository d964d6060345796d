"""Token cross-entropy: every pretraining and finetuning objective here, labels deciding which tokens count."""

import torch.nn.functional as F
from torch import Tensor

from hfcourse.logprobs import IGNORE_INDEX
from hfcourse.precision import at_least_float32


def language_modeling_loss(logits: Tensor, labels: Tensor, num_items: Tensor | float | None = None) -> Tensor:
    """Negative log-likelihood of the labels, summed and divided by the number of items.

        L = -(1/n) Σ_t log softmax(z_t)[y_t]     over the t with y_t ≠ -100

    Args:
        logits: (..., V), aligned with the labels: `logits[t]` predicts `labels[t]` (the caller shifts).
        labels: (...), -100 where the token does not count.
        num_items: n. The labels that count in the whole optimizer step, over all its micro-batches and processes; by
            default those of this batch.

    Returns:
        Scalar in nats a token, float32. No label that counts: 0, with a gradient of 0.
    """
    counts = labels != IGNORE_INDEX
    if not counts.all():  # where all count, the copy and its slow backward are spared
        # Selected before the softmax: in a masked LM 85 % of the rows are ignored, and a NaN there must not spread.
        logits, labels = logits[counts], labels[counts]
    logits, labels = at_least_float32(logits.reshape(-1, logits.shape[-1])), labels.reshape(-1)
    total = F.cross_entropy(logits, labels, reduction="sum")
    if num_items is None:
        num_items = counts.sum().clamp(min=1)
    return total / num_items
