"""Sums, means, moments and whitening over the real tokens of a padded batch.

Masked slots are selected away with `where`, never multiplied by 0: padding may hold NaN, and NaN · 0 is NaN.
Everything is summed in float32 or better.
"""

import torch
from torch import Tensor

from hfcourse.precision import at_least_float32

# Added to a variance before its square root.
EPS = 1e-8


def masked_sum(x: Tensor, mask: Tensor, num_items: Tensor | float) -> Tensor:
    """Sum of x where the mask is 1, divided by `num_items`.

    `num_items` is counted over the whole optimizer step and all processes, so that the gradients of micro-batches and
    of processes add up to the gradient of the whole batch. With no items at all the sum is 0, not NaN.

    Args:
        x, mask: same shape.
        num_items: number, or scalar tensor.

    Returns:
        Scalar, differentiable.
    """
    num_items = torch.as_tensor(num_items, device=x.device)
    return at_least_float32(x).where(mask.bool(), 0.0).sum() / num_items.where(num_items > 0, 1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the slots where the mask is 1; 0 where there are none."""
    return masked_sum(x, mask, mask.bool().sum())


@torch.no_grad()
def masked_moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(count, Σx, Σx²) over the mask: the three numbers that add up over micro-batches and processes.

    They are float64 scalars (float32 on MPS, which has no float64), for the variance of large numbers is the small
    difference of two larger ones. [`mean_and_variance`] turns their totals into what [`whiten`] takes.
    """
    x = x.to(torch.float32 if x.device.type == "mps" else torch.float64).where(mask.bool(), 0.0)
    return mask.bool().sum().to(x.dtype), x.sum(), x.square().sum()


def mean_and_variance(count: Tensor, total: Tensor, total_sq: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance from (summed) moments; both 0 where there is nothing to average."""
    count = count.clamp(min=1)
    mean = total / count
    return mean, (total_sq / count - mean.square()).clamp(min=0)


def whiten(x: Tensor, mask: Tensor, mean: Tensor | float, var: Tensor | float) -> Tensor:
    """(x - mean) / √(var + 1e-8) where the mask is 1, else 0. `var` is the biased variance; one token alone gives 0.

    Returns:
        Same shape as x, float32.
    """
    var = torch.as_tensor(var, device=x.device)
    return ((at_least_float32(x) - mean) * (var + EPS).rsqrt()).where(mask.bool(), 0.0)


def scale(x: Tensor, mask: Tensor, var: Tensor | float) -> Tensor:
    """x / √(var + 1e-8) where the mask is 1, else 0: divides only.

    The mean stays where it is: on sequences of unequal length, moving every token's reward by a constant would pay
    (or fine) length. A variance of at most 1e-8 (one token, equal rewards) tells no scale and leaves x as it is.

    Returns:
        Same shape as x, float32.
    """
    var = torch.as_tensor(var, device=x.device)
    factor = (var + EPS).rsqrt().where(var > EPS, 1.0)
    return (at_least_float32(x) * factor).where(mask.bool(), 0.0)
