"""How sure a fitted law is: the same fit on resampled runs, all resamples at once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hfcourse.scaling.bfgs import minimize
from hfcourse.scaling.laws import HUBER_DELTA, ScalingLaw, checked_runs, huber_objective, law_of, theta_of

NUM_CONSTANTS = 5


def bootstrap_laws(
    law: ScalingLaw,
    num_params: ArrayLike,
    num_tokens: ArrayLike,
    losses: ArrayLike,
    num_resamples: int = 500,
    seed: int = 0,
    delta: float = HUBER_DELTA,
) -> ScalingLaw:
    """Laws refitted to resampled residuals, as one [`ScalingLaw`] whose fields have `num_resamples` entries.

        log L_i' = log L̂_i + s·r_j     r_j: a residual of the fit, drawn anew for each run;  s = √(n / (n - 5))

    The runs stay where they are and only their luck is drawn again, because a sweep chooses its sizes and tokens:
    resampled runs would lose the corners of a grid of sixteen. Five constants fitted to n runs leave residuals smaller
    than the noise by 1/s.

    Args:
        law: fitted to these runs by [`fit_scaling_law`].
    """
    runs = checked_runs(num_params, num_tokens, losses)
    log_fit = np.log(law.loss(*runs[:2]))
    residuals = np.log(runs[2]) - log_fit
    residuals *= np.sqrt(len(residuals) / max(len(residuals) - NUM_CONSTANTS, 1))
    drawn = np.random.default_rng(seed).choice(residuals, (num_resamples, len(residuals)))
    objective = huber_objective(*runs[:2], np.exp(log_fit + drawn), delta)
    start = theta_of(law, *runs[:2])
    points, _ = minimize(objective, np.tile(start, (num_resamples, 1)))
    return law_of(points, *runs[:2])


def interval(laws: ScalingLaw, quantity: Callable[[ScalingLaw], NDArray], level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of a quantity over bootstrapped laws, e.g. `interval(laws, lambda law: law.exponents[0])`."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(quantity(laws), (tail, 1 - tail))
    return float(low), float(high)
