"""A lesson: Kaplan's N* ∝ C^0.73 and Chinchilla's C^0.50 are one law, counted with and without the embeddings."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hfcourse.scaling.laws import FLOPS_PER_PARAM_TOKEN, ScalingLaw

EMBEDDINGS_OF_CHINCHILLA = 47_491  # ω of Pearce & Song, fitted to the models of Chinchilla's table A9
SIZES = np.geomspace(1e2, 1e12, 20_001)
KAPLAN_SIZES = (768, 1.5e9)  # non-embedding parameters of the smallest and the largest model of the study


def total_params(non_embedding: ArrayLike, omega: float = EMBEDDINGS_OF_CHINCHILLA) -> NDArray:
    """N = N₋ + ω N₋^(1/3): layers grow with width³ where depth grows with width, embeddings with width."""
    non_embedding = np.asarray(non_embedding, dtype=np.float64)
    return non_embedding + omega * np.cbrt(non_embedding)


def non_embedding_optimum(
    law: ScalingLaw, flops: ArrayLike, total: Callable[[NDArray], NDArray] = total_params
) -> NDArray:
    """N₋* of budgets counted as C₋ = 6 N₋ D, where the loss follows `law` in the *total* parameters.

    Small models are mostly embeddings, which C₋ has for nothing: seen so, making a small model larger costs the more
    and the loss falls as if parameters were worth more (https://huggingface.co/papers/2406.12907).

    Args:
        flops: (K,).
        total: parameters with embeddings, from those without.
    """
    flops = np.atleast_1d(np.asarray(flops, dtype=np.float64))
    losses = law.loss(total(SIZES), flops[:, None] / (FLOPS_PER_PARAM_TOKEN * SIZES))
    return SIZES[losses.argmin(1)]


def non_embedding_exponent(
    law: ScalingLaw,
    sizes: tuple[float, float] = KAPLAN_SIZES,
    total: Callable[[NDArray], NDArray] = total_params,
) -> float:
    """The slope of log N₋* over log C₋, over the budgets whose best models have these sizes."""
    flops = np.geomspace(1e8, 1e26, 400)
    best = non_embedding_optimum(law, flops, total)
    studied = (best >= sizes[0]) & (best <= sizes[1])
    return float(np.polyfit(np.log(flops[studied]), np.log(best[studied]), 1)[0])
