"""Means and differences that know how far to trust them. Pure functions of lists of numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hfcourse.errors import InputError


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    se: float

    @property
    def is_positive(self) -> bool:
        """Whether the mean exceeds 0 by more than two standard errors."""
        return self.mean > 2 * self.se


def estimate(values: Sequence[float]) -> Estimate:
    """x̄ and s/√n of independent values, with s² = Σ(x - x̄)²/(n - 1).

    Raises:
        InputError: fewer than two values; one alone says nothing about its own spread.
    """
    if len(values) < 2:
        raise InputError(f"num_eval_examples: {len(values)} is too few to tell a mean from chance; take two or more")
    x = np.asarray(values, dtype=np.float64)
    return Estimate(float(x.mean()), float(x.std(ddof=1)) / math.sqrt(len(x)))


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """Mean of `after - before` on the same prompts.

    What makes a prompt hard makes it hard for both and cancels; the standard error is that of the differences.

    Raises:
        InputError: the two are not of one length.
    """
    if len(before) != len(after):
        raise InputError(f"{len(before)} and {len(after)} values are not pairs; evaluate both on the same prompts")
    return estimate(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64))


def win_rate(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """Share of prompts on which `after` is the larger; a tie is half a win."""
    return estimate((np.sign(np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)) + 1) / 2)


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a proportion p = successes / trials (Wilson 1927), at 95 % by default.

        ( p + z²/2n ± z √( p(1-p)/n + z²/4n² ) ) / (1 + z²/n)

    Holds near 0 and 1 too, where p ± z·se does not. (0, 1) without a trial.
    """
    if trials == 0:
        return 0.0, 1.0
    p, z2 = successes / trials, z * z
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return centre - half, centre + half


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over resamples with replacement (Efron 1979); no normal distribution assumed."""
    x, rng = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = [x[rng.integers(0, len(x), len(x))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
