"""Word embeddings: skip-gram with negative sampling."""

import torch.nn.functional as F
from torch import Tensor

from hfcourse.precision import at_least_float32


def skip_gram_negative_sampling_loss(center: Tensor, context: Tensor, negatives: Tensor) -> Tensor:
    """Skip-gram negative sampling, Eq. 4 of https://huggingface.co/papers/1310.4546 with its sign turned.

        L = -log σ(c · o) - Σ_k log σ(-c · n_k)

    Args:
        center: (B, d), c, input vectors of the center words.
        context: (B, d), o, output vectors of words seen beside them.
        negatives: (B, K, d), n_k, output vectors of words drawn from the noise distribution.

    Returns:
        (B,), float32.
    """
    center, context, negatives = map(at_least_float32, (center, context, negatives))
    positive_scores = (center * context).sum(-1)
    negative_scores = (negatives * center.unsqueeze(1)).sum(-1)
    return -F.logsigmoid(positive_scores) - F.logsigmoid(-negative_scores).sum(-1)
