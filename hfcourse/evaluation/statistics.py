"""Means with their standard errors, paired differences, intervals of proportions."""

import math
from statistics import fmean, stdev
from typing import NamedTuple


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    se: float


def estimate(values: list[float]) -> Estimate:
    """Mean of independent values; se = s / √n, 0 for a single one."""
    return Estimate(fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0)


def paired_difference(before: list[float], after: list[float]) -> Estimate:
    """Mean of after - before on the same prompts: what the prompts have in common cancels."""
    return estimate([b - a for a, b in zip(before, after, strict=True)])


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927); at 95 % by default. Holds near 0 and 1 too, where p ± z·se does not."""
    if trials == 0:
        return 0.0, 1.0
    p, z2 = successes / trials, z * z
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return centre - half, centre + half
