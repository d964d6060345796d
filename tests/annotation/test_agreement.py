"""Agreement beyond chance: the papers' examples and hand algebra."""

import numpy as np
import pytest

from hfcourse.annotation.agreement import cohens_kappa, fleiss_kappa, over_items


def test_cohens_kappa_by_hand():
    """20 yes/yes, 15 no/no, 5 yes/no, 10 no/yes: p_o = 0.7, p_e = 0.5·0.6 + 0.5·0.4 = 0.5, κ = 0.4."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)
    assert cohens_kappa(first, first) == 1
    assert cohens_kappa(["a", "b"], ["b", "a"]) == -1
    assert cohens_kappa(["a"] * 5, ["a"] * 5) == 1


def test_fleiss_kappa_of_his_example():
    """Ten items, fourteen raters, five categories (Fleiss 1971, and Wikipedia's table): κ = 0.210."""
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    items = [[category for category, n in enumerate(row) for _ in range(n)] for row in table]
    assert fleiss_kappa(items) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([*items, [3]]) == fleiss_kappa(items), "one judgement alone agrees with nobody"


def test_of_chance_nothing_remains():
    rng = np.random.default_rng(0)
    first, second = rng.choice(["a", "b", "tie"], (2, 5000), p=[0.5, 0.3, 0.2])
    assert abs(cohens_kappa(first, second)) < 0.04
    assert abs(fleiss_kappa(list(zip(first, second, strict=True)))) < 0.04


def test_the_interval_covers():
    """κ of annotators who agree 4 times in 5 on a fair coin is 0.6: the interval holds it in about 95 of 100."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(60):
        a = rng.integers(0, 2, 150)
        b = np.where(rng.random(150) < 0.8, a, 1 - a)
        kappa = over_items(
            lambda rows: cohens_kappa(*zip(*rows, strict=True)), list(zip(a, b, strict=True)), 100, seed
        )
        held += kappa["low"] <= 0.6 <= kappa["high"]
    assert held >= 52
