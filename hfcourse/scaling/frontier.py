"""Chinchilla's approaches 1 and 2: the best N and D of each budget, read off the runs without a law of the loss."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hfcourse.errors import InputError
from hfcourse.scaling.laws import FLOPS_PER_PARAM_TOKEN

SAME_BUDGET = 0.2  # runs whose log C lie within this have one budget
MIN_RUNS_OF_A_PARABOLA = 5  # a parabola and the line take four


@dataclass(frozen=True)
class Frontier:
    """What was best at each budget, each (K,): C, N*(C), D*(C) and the loss there; and N* = k·C^a, D* = C^(1-a)/6k.

    Least squares on logarithms, C = 6 N D.
    """

    flops: NDArray
    num_params: NDArray
    num_tokens: NDArray
    losses: NDArray

    @property
    def exponents(self) -> tuple[float, float]:
        """(a, b) of N* ∝ C^a and D* ∝ C^b, b = 1 - a."""
        a = float(np.polyfit(np.log(self.flops), np.log(self.num_params), 1)[0])
        return a, 1 - a

    def compute_optimal(self, flops: ArrayLike) -> tuple[NDArray, NDArray]:
        """(N*, D*) of a budget by the fitted power law."""
        line = np.polyfit(np.log(self.flops), np.log(self.num_params), 1)
        num_params = np.exp(np.polyval(line, np.log(flops)))
        return num_params, np.asarray(flops) / (FLOPS_PER_PARAM_TOKEN * num_params)


def training_curve_envelope(curves: list[tuple[float, ArrayLike, ArrayLike]], num_budgets: int = 200) -> Frontier:
    """Approach 1: for each of many budgets, the training curve that is lowest there.

    Between its points a curve is a straight line of log loss over log tokens. Budgets are spaced evenly in log C over
    the part where the lowest curve is neither the smallest nor the largest model: there, a better one may be missing.

    Args:
        curves: (N, tokens (T,), losses (T,)) of each run. If the learning rate had not decayed at a point, its loss is
            too high there, which is what bent Kaplan's exponents.

    Raises:
        InputError: fewer than 3 sizes, or no budget at which a size in the middle is best.
    """
    if len({num_params for num_params, _, _ in curves}) < 3:
        raise InputError("curves: an envelope needs at least 3 sizes")
    curves = sorted(((n, np.asarray(d, float), np.asarray(loss, float)) for n, d, loss in curves), key=lambda c: c[0])
    starts_and_ends = [FLOPS_PER_PARAM_TOKEN * n * d[[0, -1]] for n, d, _ in curves]
    low, high = np.min(starts_and_ends), np.max(starts_and_ends)
    flops = np.geomspace(low, high, num_budgets)
    log_losses = np.stack([_at_budgets(flops, *curve) for curve in curves])
    best = log_losses.argmin(0)
    sizes = np.array([n for n, _, _ in curves])
    inside = (sizes[best] > sizes[0]) & (sizes[best] < sizes[-1])
    if inside.sum() < 2:
        raise InputError("curves: the smallest or the largest size is best at every budget; add sizes beyond it")
    num_params = sizes[best][inside]
    tokens = flops[inside] / (FLOPS_PER_PARAM_TOKEN * num_params)
    return Frontier(flops[inside], num_params, tokens, np.exp(log_losses.min(0)[inside]))


def _at_budgets(flops: NDArray, num_params: float, tokens: NDArray, losses: NDArray) -> NDArray:
    """log loss of a curve at each budget; infinite where the run had not begun or was over."""
    log_tokens = np.log(flops / (FLOPS_PER_PARAM_TOKEN * num_params))
    return np.interp(log_tokens, np.log(tokens), np.log(losses), left=np.inf, right=np.inf)


def isoflop_parabolas(num_params: ArrayLike, num_tokens: ArrayLike, losses: ArrayLike) -> Frontier:
    """Approach 2: runs of one budget and many sizes; the loss is a parabola in log N, and N* is its lowest point.

    Runs whose 6 N D agree within a fifth have one budget; what they differ in log C is allowed for by a straight line.
    A parabola whose lowest point lies outside its runs, or that opens downwards, tells nothing and is left out. Wide
    parabolas lean, for the true curve is steeper on one side.

    Raises:
        InputError: fewer than two budgets with a lowest point inside.
    """
    n, d, loss = (np.asarray(column, dtype=np.float64) for column in (num_params, num_tokens, losses))
    log_c = np.log(FLOPS_PER_PARAM_TOKEN * n * d)
    groups: list[list[int]] = []
    for run in np.argsort(log_c):
        if groups and log_c[run] - log_c[groups[-1][0]] <= SAME_BUDGET:
            groups[-1].append(run)
        else:
            groups.append([run])
    points = [point for group in groups if (point := _lowest_point(np.log(n[group]), log_c[group], loss[group]))]
    if len(points) < 2:
        raise InputError(
            f"num_params, num_tokens: {len(points)} budgets with a best size in their middle; an isoFLOP fit needs 2 "
            f"or more, each of {MIN_RUNS_OF_A_PARABOLA} sizes or more with 6 N D alike"
        )
    flops, best, lowest = np.array(points).T
    return Frontier(flops, best, flops / (FLOPS_PER_PARAM_TOKEN * best), lowest)


def _lowest_point(log_n: NDArray, log_c: NDArray, losses: NDArray) -> tuple[float, float, float] | None:
    if len(np.unique(log_n)) < MIN_RUNS_OF_A_PARABOLA:
        return None
    middle, cost = log_n.mean(), log_c.mean()
    terms = np.stack([(log_n - middle) ** 2, log_n - middle, np.ones(len(log_n)), log_c - cost], 1)
    curvature, slope, height, _ = np.linalg.lstsq(terms, losses)[0]
    if curvature <= 0:
        return None
    lowest = -slope / (2 * curvature)
    if not log_n.min() <= middle + lowest <= log_n.max():
        return None
    return np.exp(cost), np.exp(middle + lowest), height + slope * lowest / 2
