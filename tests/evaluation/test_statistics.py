"""Means, differences and intervals, by hand and against brute force."""

import itertools
import math

import numpy as np
import pytest

from hfcourse.errors import InputError
from hfcourse.evaluation.statistics import (
    Estimate,
    bootstrap_interval,
    estimate,
    paired_difference,
    wilson_interval,
    win_rate,
)


def test_estimate_by_hand():
    """1, 2, 6: mean 3, s² = (4 + 1 + 9)/2 = 7, se = √(7/3)."""
    assert estimate([1, 2, 6]) == pytest.approx((3.0, math.sqrt(7 / 3)))


def test_one_value_tells_nothing_of_its_spread():
    with pytest.raises(InputError, match="1 is too few"):
        estimate([3.0])


def test_paired_difference_cancels_what_the_prompts_share():
    """Differences 1, 1, 1, 2: mean 1.25, s² = 3·(1/16)/3 + (9/16)/3 = 0.25, se = 0.5/2. Two separate means would have
    a standard error near √(2 · 1000²/4): the prompts differ by thousands, the methods by one."""
    before = [0.0, 1000.0, 2000.0, 3000.0]
    after = [1.0, 1001.0, 2001.0, 3002.0]
    assert paired_difference(before, after) == pytest.approx((1.25, 0.25))
    assert paired_difference(after, before).mean == pytest.approx(-1.25)


def test_paired_difference_needs_pairs():
    with pytest.raises(InputError, match="not pairs"):
        paired_difference([1.0, 2.0], [1.0, 2.0, 3.0])


def test_positive_is_more_than_two_standard_errors():
    assert Estimate(1.0, 0.49).is_positive
    assert not Estimate(1.0, 0.5).is_positive
    assert not Estimate(-1.0, 0.1).is_positive
    assert not Estimate(0.0, 0.0).is_positive


def test_win_rate_counts_a_tie_as_half():
    """Win, loss, tie, win: (1 + 0 + ½ + 1)/4."""
    assert win_rate([0, 1, 2, 3], [1, 0, 2, 4]).mean == 0.625


def test_wilson_interval_by_hand():
    """n = 10, p = ½, z = 2: centre (½ + 4/20)/(1.4) = ½, half √(0.025 + 0.01)·2/1.4."""
    low, high = wilson_interval(5, 10, z=2)
    assert low == pytest.approx(0.5 - 2 * math.sqrt(0.035) / 1.4)
    assert high == pytest.approx(0.5 + 2 * math.sqrt(0.035) / 1.4)


def test_wilson_interval_solves_its_equation():
    """Its ends are the p₀ from which p̂ is exactly z standard errors away: (p̂ - p₀)² = z² p₀(1 - p₀)/n."""
    for successes, n in ((0, 7), (3, 7), (399, 400)):
        for p0 in wilson_interval(successes, n):
            assert (successes / n - p0) ** 2 == pytest.approx(1.96**2 * p0 * (1 - p0) / n, abs=1e-12)


def test_wilson_interval_without_a_trial():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_bootstrap_interval_against_every_resample():
    """Of three values there are 27 resamples; their 5 % and 95 % quantiles are what many random ones tend to."""
    values = [0.0, 1.0, 5.0]
    every = [np.mean(resample) for resample in itertools.product(values, repeat=3)]
    low, high = bootstrap_interval(values, confidence=0.9, num_resamples=20_000)
    expected = np.quantile(every, [0.05, 0.95])
    assert [low, high] == pytest.approx(expected, abs=0.35)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)


def test_bootstrap_interval_agrees_with_the_normal_one_on_many_values():
    values = np.random.default_rng(0).normal(2.0, 3.0, 400)
    mean, se = estimate(values)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(mean - 1.96 * se, abs=0.1 * se * 2)
    assert high == pytest.approx(mean + 1.96 * se, abs=0.1 * se * 2)
