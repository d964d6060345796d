"""Which run next: of the runs that a budget can buy, those that tell most about the model you mean to train."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hfcourse.errors import InputError
from hfcourse.scaling.laws import FLOPS_PER_PARAM_TOKEN, MIN_SIZES, ScalingLaw, fit_scaling_law

NOISE = 0.01  # of log loss, seed to seed; only its size beside PRIOR_DEVIATION matters
# How far E, A, B (as logarithms) and α, β may lie from the fit before a run has told: about anywhere.
PRIOR_DEVIATION = np.array([1.0, 1.0, 1.0, 0.3, 0.3])
THRIFT = (0.0, 0.25, 0.5, 0.75, 1.0)

Run = tuple[float, float]  # N, D


def next_run(
    candidates: Sequence[Run],
    done: Sequence[Run],
    losses: ArrayLike,
    target: Run,
    costs: ArrayLike,
    budget: float = np.inf,
    running: Sequence[Run] = (),
) -> int | None:
    """Index of the candidate to run next, or None if the budget is too small for any.

    The first runs are three sizes and three token counts of the cheapest, without which there is no law. After them
    the law is fitted anew for every choice, the budget that is left is planned to its end ([`plan_runs`]), and the
    cheapest run of the plan is made: it may change the plan before the dear ones are paid for.

    Args:
        candidates: (N, D) of runs that may be made.
        done: (N, D) of those that have been, `losses` theirs.
        target: (N, D) of the run that is to be predicted.
        costs: of each candidate, in the unit of the budget: FLOPs or seconds.
        running: (N, D) of those that are under way: they count as done, with a loss yet to come.
    """
    costs = np.asarray(costs, dtype=np.float64)
    started = {tuple(run) for run in (*done, *running)}
    open_ = [i for i, run in enumerate(candidates) if tuple(run) not in started and costs[i] <= budget]
    first = [i for i in open_ if tuple(candidates[i]) in first_runs(candidates)]
    if open_ and not first:
        try:
            law = fit_scaling_law(*np.transpose(done), losses) if len(done) else None
        except InputError:  # the first runs did not fit into the budget, or are still under way
            law = None
        if law is not None:
            at = [candidates[i] for i in open_]
            first = [open_[i] for i in plan_runs(law, at, [*done, *running], target, costs[open_], budget)]
    return min(first or open_, key=lambda i: costs[i], default=None)


def first_runs(candidates: Sequence[Run]) -> set[Run]:
    """Of the smallest size three token counts, of the fewest tokens three sizes: an L of five runs."""
    sizes = sorted({n for n, _ in candidates})[:MIN_SIZES]
    tokens = sorted({d for _, d in candidates})[:MIN_SIZES]
    return {(n, d) for n, d in candidates if n in sizes and d in tokens and (n == sizes[0] or d == tokens[0])}


def plan_runs(
    law: ScalingLaw, candidates: Sequence[Run], done: Sequence[Run], target: Run, costs: NDArray, budget: float
) -> list[int]:
    """Candidates to spend the budget on so that log L̂(target) becomes as certain as possible.

    Its variance is jᵀF⁻¹j, F = JᵀJ/σ² + prior, J the Jacobian of the law over the runs. A run i takes away
    (jᵀF⁻¹j_i)² / (σ² + j_iᵀF⁻¹j_i) of it (Sherman and Morrison). Runs are added one by one, by what they take away
    over cost^θ, once for each θ of `THRIFT`: θ = 1 buys many small runs, θ = 0 few large ones, and what is best
    depends on the budget. The plan that ends with the smallest variance is returned (c-optimal design: Pukelsheim,
    Optimal Design of Experiments, 2).
    """
    centre = np.log(np.asarray(done, dtype=np.float64)).mean(0)
    known = jacobian(law, done, centre)
    covariance = np.linalg.inv(known.T @ known / NOISE**2 + np.diag(PRIOR_DEVIATION**-2))
    there, new = jacobian(law, [target], centre)[0], jacobian(law, candidates, centre)
    plans = [_greedy(covariance, new, there, costs, budget, thrift) for thrift in THRIFT]
    return min(plans, key=lambda plan: plan[1])[0]


def _greedy(
    covariance: NDArray, new: NDArray, there: NDArray, costs: NDArray, budget: float, thrift: float
) -> tuple[list[int], float]:
    """The plan of one θ, and the variance that it leaves at the target."""
    plan, left = [], budget
    while True:
        affordable = costs <= left
        affordable[plan] = False
        if not affordable.any():
            return plan, float(there @ covariance @ there)
        gains = variance_taken_away(covariance, new, there) / costs**thrift
        best = int(np.argmax(np.where(affordable, gains, -np.inf)))
        along = covariance @ new[best]
        covariance = covariance - np.outer(along, along) / (NOISE**2 + new[best] @ along)
        plan.append(best)
        left -= costs[best]


def variance_taken_away(covariance: NDArray, new: NDArray, there: NDArray) -> NDArray:
    """(n,): by how much each run, a row of `new` (n, 5), would lower the variance along `there` (5,)."""
    return (new @ covariance @ there) ** 2 / (NOISE**2 + np.einsum("ip,pq,iq->i", new, covariance, new))


def jacobian(law: ScalingLaw, runs: Sequence[Run], centre: NDArray) -> NDArray:
    """(n, 5): d log L / d (log E, a', b', α, β), with a' and b' the log heights of the terms at `centre`."""
    n, d = np.asarray(runs, dtype=np.float64).T
    of_params, of_tokens, loss = law.loss(n, np.inf) - law.E, law.loss(np.inf, d) - law.E, law.loss(n, d)
    x, y = np.log(n) - centre[0], np.log(d) - centre[1]
    columns = (np.full_like(n, law.E), of_params, of_tokens, -of_params * x, -of_tokens * y)
    return np.stack([column / loss for column in columns], 1)


def flops_of(runs: Sequence[Run]) -> NDArray:
    """6 N D of each run."""
    n, d = np.asarray(runs, dtype=np.float64).T
    return FLOPS_PER_PARAM_TOKEN * n * d
