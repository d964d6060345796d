"""How far annotators agree beyond chance. Pure functions of labels."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """κ = (p_o - p_e) / (1 - p_e) of two annotators who judged the same items (Cohen 1960).

    p_o is the share of items on which they agree, p_e = Σ_c p_1(c) p_2(c) what they would by chance. 1 where both
    always say one and the same thing.
    """
    labels = sorted({*first, *second}, key=str)
    a, b = (np.array([labels.index(label) for label in side]) for side in (first, second))
    shares = [np.bincount(side, minlength=len(labels)) / len(side) for side in (a, b)]
    by_chance = float(shares[0] @ shares[1])
    return 1.0 if by_chance == 1 else float(((a == b).mean() - by_chance) / (1 - by_chance))


def fleiss_kappa(items: Sequence[Sequence[Hashable]]) -> float:
    """κ of any number of annotators, of whom each item has n ≥ 2 (Fleiss 1971).

        P_i = Σ_c n_ic (n_ic - 1) / (n (n - 1))     κ = (mean P_i - Σ_c p_c²) / (1 - Σ_c p_c²)

    n may differ from item to item; each item counts once.
    """
    items = [labels for labels in items if len(labels) > 1]
    categories = sorted({label for labels in items for label in labels}, key=str)
    counts = np.array([[labels.count(c) for c in categories] for labels in map(list, items)], dtype=np.float64)
    n = counts.sum(1)
    observed = ((counts * (counts - 1)).sum(1) / (n * (n - 1))).mean()
    by_chance = float(np.square((counts / n[:, None]).mean(0)).sum())
    return 1.0 if by_chance == 1 else float((observed - by_chance) / (1 - by_chance))


def over_items(
    statistic: Callable[[list], float], items: Sequence, num_resamples: int = 500, seed: int = 0
) -> dict[str, float]:
    """{"value", "low", "high"}: a statistic of items and its 95 % bootstrap interval, resampled by item."""
    items, rng = list(items), np.random.default_rng(seed)
    draws = rng.integers(0, len(items), (num_resamples, len(items)))
    values = [statistic([items[i] for i in draw]) for draw in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    return {"value": statistic(items), "low": float(low), "high": float(high)}
