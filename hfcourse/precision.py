"""Half precision stops where a log, an exponential or a sum begins."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged where it is float64 already (the exact tests run in float64).

    bfloat16 keeps 8 bits: a difference of two log-probs near -100 would be rounded to a multiple of 0.5.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
