"""The run that tells most: by its formula, and against spending the same compute otherwise."""

import numpy as np
import pytest

from hfcourse.scaling import ScalingLaw
from hfcourse.scaling.design import (
    NOISE,
    PRIOR_DEVIATION,
    first_runs,
    flops_of,
    jacobian,
    next_run,
    plan_runs,
    variance_taken_away,
)
from hfcourse.scaling.laws import law_of, theta_of

LAW = ScalingLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
SIZES, TOKENS = np.geomspace(1e6, 3e8, 6), np.geomspace(1e8, 1e11, 7)
CANDIDATES = [(n, d) for n in SIZES for d in TOKENS]
TARGET = (1e9, 1e11)


def test_the_jacobian():
    """Against central differences of log L̂ in the parameters of the fit."""
    runs = np.array(CANDIDATES[:10])
    theta = theta_of(LAW, *runs.T)
    for i in range(5):
        step = np.eye(5)[i] * 1e-5
        up, down = (np.log(law_of(theta + sign * step, *runs.T).loss(*runs.T)) for sign in (1, -1))
        assert jacobian(LAW, CANDIDATES[:10], np.log(runs).mean(0))[:, i] == pytest.approx(
            (up - down) / 2e-5, rel=1e-5
        )


def test_variance_taken_away_is_that_of_the_larger_design():
    """Sherman and Morrison against inverting twice."""
    done, candidate = CANDIDATES[::5], CANDIDATES[-1]
    centre = np.log(np.array(done)).mean(0)
    there, new = jacobian(LAW, [TARGET], centre)[0], jacobian(LAW, [candidate], centre)

    def covariance(runs):
        known = jacobian(LAW, runs, centre) / NOISE
        return np.linalg.inv(known.T @ known + np.eye(5))

    before, after = (there @ covariance(runs) @ there for runs in (done, [*done, candidate]))
    assert variance_taken_away(covariance(done), new, there)[0] == pytest.approx(before - after, rel=1e-7)
    assert 0 < after < before


def test_the_first_runs_are_an_l():
    assert first_runs(CANDIDATES) == {
        *((SIZES[0], d) for d in TOKENS[:3]),
        *((n, TOKENS[0]) for n in SIZES[:3]),
    }


def design(budget: float, choose) -> list:
    """The runs that a budget is spent on, with the losses of the law itself."""
    costs, done, spent = flops_of(CANDIDATES), [], 0.0
    while (i := choose(done, [LAW.loss(*run) for run in done], costs, budget - spent)) is not None:
        done.append(CANDIDATES[i])
        spent += costs[i]
    assert spent <= budget
    return done


def deviation_at_target(runs) -> float:
    """Standard deviation of log L̂(target) for 0.5 % of noise on each run's loss, by the Jacobian alone: no prior."""
    centre = np.log(np.array(runs)).mean(0)
    known, there = jacobian(LAW, runs, centre) / 0.005, jacobian(LAW, [TARGET], centre)[0]
    return float(np.sqrt(there @ np.linalg.inv(known.T @ known) @ there))


def test_it_tells_more_than_chance_for_the_same_compute():
    """2 % of what the whole grid costs, against 100 ways to spend them at random from the same first five runs."""
    budget = flops_of(CANDIDATES).sum() / 50
    rng = np.random.default_rng(0)

    def tells_most(done, losses, costs, left):
        return next_run(CANDIDATES, done, losses, TARGET, costs, left)

    def any_affordable(done, losses, costs, left):
        open_ = [i for i, run in enumerate(CANDIDATES) if run not in done and costs[i] <= left]
        first = [i for i in open_ if CANDIDATES[i] in first_runs(CANDIDATES)]
        return int(rng.choice(first or open_)) if open_ else None

    chosen = deviation_at_target(design(budget, tells_most))
    at_random = sorted(deviation_at_target(design(budget, any_affordable)) for _ in range(100))
    assert chosen < at_random[0]
    assert chosen < 0.8 * at_random[50]


def test_runs_under_way_are_not_chosen_again_and_a_budget_ends():
    costs = flops_of(CANDIDATES)
    done = sorted(first_runs(CANDIDATES))
    losses = [LAW.loss(*run) for run in done]
    first = next_run(CANDIDATES, done, losses, TARGET, costs)
    second = next_run(CANDIDATES, done, losses, TARGET, costs, running=[CANDIDATES[first]])
    assert second not in (None, first)
    assert next_run(CANDIDATES, done, losses, TARGET, costs, budget=costs.min() / 2) is None
    assert next_run(CANDIDATES, CANDIDATES, np.ones(len(CANDIDATES)), TARGET, costs) is None
    assert CANDIDATES[next_run(CANDIDATES, [], [], TARGET, costs)] == (SIZES[0], TOKENS[0])


def test_the_plan_of_one_run_is_the_best_run():
    """With money for one run, all alike dear, the plan is the run whose addition leaves the smallest variance."""
    done = sorted(first_runs(CANDIDATES))
    others = [run for run in CANDIDATES if run not in done]
    (chosen,) = plan_runs(LAW, others, done, TARGET, np.ones(len(others)), 1.0)
    centre = np.log(np.array(done)).mean(0)
    there = jacobian(LAW, [TARGET], centre)[0]
    left = []
    for run in others:
        known = jacobian(LAW, [*done, run], centre) / NOISE
        left.append(there @ np.linalg.inv(known.T @ known + np.diag(PRIOR_DEVIATION**-2)) @ there)
    assert chosen == int(np.argmin(left))


def test_a_plan_keeps_to_its_budget():
    done = sorted(first_runs(CANDIDATES))
    costs = flops_of(CANDIDATES)
    for budget in costs.sum() * np.array([1e-4, 1e-2, 0.1, 2]):
        plan = plan_runs(LAW, CANDIDATES, done, TARGET, costs, budget)
        assert costs[plan].sum() <= budget
        assert len(set(plan)) == len(plan)
        assert not (costs[[i for i in range(len(costs)) if i not in plan]] <= budget - costs[plan].sum()).any()
