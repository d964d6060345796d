"""Many small minimisations at once: BFGS with a Wolfe line search over a batch of starts, in NumPy."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SUFFICIENT_DECREASE, CURVATURE = 1e-4, 0.9
MAX_HALVINGS = 30

# (S, P) -> values (S,) and gradients (S, P); the second argument says which of the starts the rows belong to.
Objective = Callable[[NDArray, NDArray], tuple[NDArray, NDArray]]


def minimize(
    objective: Objective, starts: NDArray, max_iterations: int = 500, tolerance: float = 1e-12
) -> tuple[NDArray, NDArray]:
    """Minimise from every start; rows that are done leave the batch.

    BFGS (Nocedal & Wright, Numerical Optimization, 6.1): p = -H g, H the running inverse Hessian. L-BFGS is the form
    of it that saves memory; with a handful of parameters there is none to save.

    Args:
        objective: values and gradients of the rows it is given.
        starts: (S, P).
        tolerance: a row is done when a step lowers its value by less than this share, twice in a row. It is relative,
            so that a multiple of the objective has the same minimum: an absolute one does not (see `early_stopping`).

    Returns:
        points (S, P) and values (S,).
    """
    points = np.array(starts, dtype=np.float64)
    active = np.arange(len(points))
    values, gradients = objective(points, active)
    inverse_hessians = _first_inverse_hessians(gradients)
    idle = np.zeros(len(points), dtype=int)
    for _ in range(max_iterations):
        x, f, g, H = points[active], values[active], gradients[active], inverse_hessians[active]
        direction = -np.einsum("spq,sq->sp", H, g)
        uphill = (direction * g).sum(1) >= 0
        if uphill.any():  # rounding has spoilt H: forget it
            H[uphill] = _first_inverse_hessians(g[uphill])
            direction[uphill] = -np.einsum("spq,sq->sp", H[uphill], g[uphill])
        step = _wolfe(objective, x, f, g, direction, active)
        x_next = x + step[:, None] * direction
        f_next, g_next = objective(x_next, active)
        better = f_next <= f
        inverse_hessians[active] = np.where(better[:, None, None], _update(H, x_next - x, g_next - g), H)
        points[active] = np.where(better[:, None], x_next, x)
        values[active] = np.where(better, f_next, f)
        gradients[active] = np.where(better[:, None], g_next, g)
        gained = np.where(better, f - f_next, 0.0) > tolerance * np.abs(f)
        idle[active] = np.where(gained, 0, idle[active] + 1)
        active = active[idle[active] < 2]
        if not len(active):
            break
    return points, values


def _first_inverse_hessians(gradients: NDArray) -> NDArray:
    """A first step of length one tenth at most: the identity, scaled."""
    norms = np.linalg.norm(gradients, axis=1)
    return np.eye(gradients.shape[1]) * (0.1 / np.maximum(norms, 1e-300))[:, None, None]


def _wolfe(objective: Objective, x: NDArray, f: NDArray, g: NDArray, direction: NDArray, rows: NDArray) -> NDArray:
    """Step lengths (S,) by bisection: the value falls enough, and the slope has risen enough."""
    slope = (g * direction).sum(1)
    low, high, step = np.zeros(len(x)), np.full(len(x), np.inf), np.ones(len(x))
    todo = np.arange(len(x))
    for _ in range(MAX_HALVINGS):
        t = step[todo]
        f_t, g_t = objective(x[todo] + t[:, None] * direction[todo], rows[todo])
        too_long = ~(f_t <= f[todo] + SUFFICIENT_DECREASE * t * slope[todo])  # NaN is too long, too
        too_short = ~too_long & ((g_t * direction[todo]).sum(1) < CURVATURE * slope[todo])
        high[todo[too_long]], low[todo[too_short]] = t[too_long], t[too_short]
        todo = todo[too_long | too_short]
        if not len(todo):
            break
        bounded = np.isfinite(high[todo])
        step[todo] = np.where(bounded, (low[todo] + np.where(bounded, high[todo], 0)) / 2, 2 * low[todo])
    return step


def _update(H: NDArray, s: NDArray, y: NDArray) -> NDArray:
    """H ← (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ with ρ = 1/(yᵀs), where that is positive."""
    curvature = (s * y).sum(1)
    usable = curvature > 1e-14 * np.linalg.norm(s, axis=1) * np.linalg.norm(y, axis=1)
    rho = np.where(usable, 1 / np.where(usable, curvature, 1), 0)[:, None, None]
    left = np.eye(s.shape[1]) - rho * s[:, :, None] * y[:, None, :]
    updated = left @ H @ left.transpose(0, 2, 1) + rho * s[:, :, None] * s[:, None, :]
    return np.where(usable[:, None, None], updated, H)
