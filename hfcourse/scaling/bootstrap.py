"""How sure a fitted law is: the same fit on resampled runs, all resamples at once."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hfcourse.scaling.bfgs import minimize
from hfcourse.scaling.laws import HUBER_DELTA, ScalingLaw, checked_runs, huber_objective, law_of, theta_of

NUM_CONSTANTS = 5
SILVERMAN = 0.9


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

        log L_i' = log L̂_i + s·(r_j + h·ε)     r_j: a residual of the fit, drawn anew for each run;  ε ~ N(0, 1)

    The runs stay where they are and only their luck is drawn again, because a sweep chooses its sizes and tokens:
    resampled runs would lose the corners of a grid of sixteen. s = √(n / (n - 5)): five constants fitted to n runs
    leave residuals smaller than the noise. h = 0.9·std(r)·n^(-1/5), Silverman's bandwidth: beyond δ the Huber loss is
    an absolute value, whose fit passes through five runs exactly; their residuals of 0, drawn again and again, would
    make it too sure (95 % intervals held the truth 88 % of the time, with h about 95 %:
    `benchmarks/scaling_coverage.py`).

    Args:
        law: fitted to these runs by [`fit_scaling_law`].
    """
    runs = checked_runs(num_params, num_tokens, losses)
    log_fit = np.log(law.loss(*runs[:2]))
    residuals = np.log(runs[2]) - log_fit
    n, rng = len(residuals), np.random.default_rng(seed)
    residuals *= np.sqrt(n / max(n - NUM_CONSTANTS, 1))
    bandwidth = SILVERMAN * residuals.std() * n**-0.2
    drawn = rng.choice(residuals, (num_resamples, n)) + bandwidth * rng.normal(size=(num_resamples, n))
    objective = huber_objective(*runs[:2], np.exp(log_fit + drawn), delta)
    start = theta_of(law, *runs[:2])
    points, _ = minimize(
        objective, np.tile(start, (num_resamples, 1)), tolerance=1e-8
    )  # far below an interval's width
    return law_of(points, *runs[:2])


def interval(laws: ScalingLaw, quantity: Callable[[ScalingLaw], NDArray], level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of a quantity over bootstrapped laws, e.g. `interval(laws, lambda law: law.exponents[0])`."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(quantity(laws), (tail, 1 - tail))
    return float(low), float(high)
