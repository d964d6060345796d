"""Over-optimisation: the reward that is optimised goes on rising while the one that was meant falls (notes, 2.3).

Gao et al. (https://huggingface.co/papers/2210.10760) measure both against d = √KL(π ‖ π_init), and fit to the gold

    best of n    R(d) = d (α - β d)          peak at d = α / 2β
    RL           R(d) = d (α - β log d)      peak at d = exp(α/β - 1)

α is the slope at first, β what over-optimisation takes away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from hfcourse.errors import InputError
from hfcourse.evaluation.statistics import paired_difference

Law = Literal["best_of_n", "rl"]
MAX_LOG_KL = 50.0  # a peak beyond e^50 nats is rounding, and no peak
MIN_MEASUREMENTS = 4  # two parameters, and something left to contradict them


@dataclass(frozen=True)
class GoldCurve:
    """A fitted law of the gold reward's gain over the start.

    r2: share of the gain's variance that the law explains.
    """

    law: Law
    alpha: float
    beta: float
    r2: float

    def gain(self, kl: float) -> float:
        """R(d) at d = √kl."""
        d = math.sqrt(kl)
        return 0.0 if d == 0 else d * (self.alpha - self.beta * (d if self.law == "best_of_n" else math.log(d)))

    @property
    def peak_kl(self) -> float:
        """The KL, in nats, at which the gain is largest; infinite where the law does not turn."""
        if self.beta <= 0:
            return math.inf
        if self.law == "best_of_n":
            return max(self.alpha / (2 * self.beta), 0.0) ** 2
        exponent = 2 * (self.alpha / self.beta - 1)
        return math.exp(exponent) if exponent < MAX_LOG_KL else math.inf


def fit_gold_curve(kl: Sequence[float], gain: Sequence[float], law: Law) -> GoldCurve:
    """Least squares of Gao's law, which is linear in α and β.

    Args:
        kl: nats from the start, one a measurement; those at 0 say nothing and are left out.
        gain: gold reward less that of the start.

    Raises:
        InputError: fewer than four measurements away from the start, or a law that is neither.
    """
    if law not in ("best_of_n", "rl"):
        raise InputError(f"law={law}: is one of best_of_n, rl")
    points = [(math.sqrt(k), g) for k, g in zip(kl, gain, strict=True) if k > 0]
    if len(points) < MIN_MEASUREMENTS:
        raise InputError(
            f"{len(points)} measurements away from the start are too few for a curve; take {MIN_MEASUREMENTS}"
        )
    d, g = np.array(points).T
    features = np.stack([d, -d * (d if law == "best_of_n" else np.log(d))], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(features, g, rcond=None)
    unexplained, variance = np.square(g - features @ (alpha, beta)).sum(), np.square(g - g.mean()).sum()
    return GoldCurve(law, float(alpha), float(beta), float(1 - unexplained / variance) if variance else 0.0)


class Turn(NamedTuple):
    """Where the gold turned: index of the best measurement, its KL, and what has been lost since, with its error."""

    best: int
    kl: float
    loss: float
    loss_se: float


def turning_point(kl: Sequence[float], golds: Sequence[Sequence[float]], law: Law = "rl") -> Turn | None:
    """Whether the gold reward has turned: two signs that must agree.

    1. The last measurement lies below the best by more than two standard errors of their paired difference.
    2. The fitted law has its peak before the last measurement's KL.

    The best of many is partly luck, so sign 1 alone warns too often; sign 2 reads all measurements.

    Args:
        kl: nats, one a measurement, in the order in which they were taken.
        golds: gold reward of every prompt, the same prompts in each measurement.
    """
    means = [float(np.mean(row)) for row in golds]
    best = int(np.argmax(means))
    if best == len(means) - 1 or sum(k > 0 for k in kl) < MIN_MEASUREMENTS:
        return None
    lost = paired_difference(golds[-1], golds[best])
    curve = fit_gold_curve(kl, [mean - means[0] for mean in means], law)
    if not lost.is_positive or curve.peak_kl >= kl[-1]:
        return None
    return Turn(best, kl[best], *lost)


# ------------------------------------------------------------------------------------------------------- best of n


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1)/n nats, the KL of the best of n draws from the policy; a bound where draws can be equal."""
    return math.log(n) - (n - 1) / n


def best_of_n_means(proxy: Sequence[float], values: Sequence[float], n: int) -> float:
    """Expected value of the draw that the proxy likes best among n of these N draws, over all choices of n.

        Σ_k C(k-1, n-1) / C(N, n) · v_(k)          v_(k) that of the k-th worst by the proxy

    Unbiased, and uses all N draws for every n at once. Ties go in the order of the draws.

    Raises:
        InputError: n exceeds the number of draws.
    """
    total = len(proxy)
    if not 1 <= n <= total:
        raise InputError(f"n={n}: there are {total} draws to choose the best from")
    order = np.argsort(np.asarray(proxy, dtype=np.float64), kind="stable")
    weights = [math.comb(k, n - 1) / math.comb(total, n) for k in range(total)]
    return float(np.dot(weights, np.asarray(values, dtype=np.float64)[order]))


# --------------------------------------------------------------------------------------- what a hacked text looks like


def _n_grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return list(zip(*(islice(words, i, None) for i in range(n)), strict=False))


def repetition(text: str, n: int = 3) -> float:
    """Share of a text's n-grams of words that it has said before, from 0 to nearly 1."""
    grams = _n_grams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """Distinct n-grams of words over all n-grams of all texts (https://huggingface.co/papers/1510.03055).

    Falls towards 0 when every prompt gets the same answer.
    """
    grams = [gram for text in texts for gram in _n_grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0
