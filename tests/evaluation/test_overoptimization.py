"""Gao's curves from planted ones, the turning point and its false alarms, best of n by enumeration, style by hand."""

import math
from itertools import combinations

import numpy as np
import pytest

from hfcourse.errors import InputError
from hfcourse.evaluation.overoptimization import (
    best_of_n_kl,
    best_of_n_means,
    distinct_n,
    fit_gold_curve,
    repetition,
    turning_point,
)
from hfcourse.world import false_confidence

KL = [0.0, 0.25, 1.0, 2.25, 4.0, 9.0, 16.0, 25.0]
PLANTED = {
    "best_of_n": lambda d: d * (1.2 - 0.2 * d),
    "rl": lambda d: d * (1.0 - 0.5 * math.log(d)) if d else 0.0,
}


@pytest.mark.parametrize("law", PLANTED)
def test_a_planted_curve_is_found_and_its_peak(law):
    """Best of n: 1.2/(2 · 0.2) = 3, a KL of 9. RL: exp(1/0.5 - 1) = e, a KL of e²."""
    curve = fit_gold_curve(KL, [PLANTED[law](math.sqrt(k)) for k in KL], law)
    planted = {"best_of_n": (1.2, 0.2, 9.0), "rl": (1.0, 0.5, math.e**2)}[law]
    assert (curve.alpha, curve.beta, curve.peak_kl) == pytest.approx(planted)
    assert curve.r2 == pytest.approx(1)
    assert curve.gain(4.0) == pytest.approx(PLANTED[law](2.0))
    assert curve.gain(curve.peak_kl) > max(curve.gain(0.9 * curve.peak_kl), curve.gain(1.1 * curve.peak_kl))
    other = fit_gold_curve(KL, [PLANTED[law](math.sqrt(k)) for k in KL], ({*PLANTED} - {law}).pop())
    assert other.r2 < 0.99, "the wrong law must fit worse"


def test_what_never_turns_peaks_nowhere():
    assert fit_gold_curve(KL, [math.sqrt(k) for k in KL], "rl").peak_kl == math.inf
    with pytest.raises(InputError, match="3 measurements"):
        fit_gold_curve([0, 1, 2, 3], [0, 1, 2, 3], "rl")
    with pytest.raises(InputError, match="law=dpo"):
        fit_gold_curve(KL, KL, "dpo")


def golds_of(curve, rng, prompts=100, noise=1.0):
    """Gold of the same prompts at every KL: their own difficulty cancels, the noise of the samples does not."""
    difficulty = rng.normal(size=prompts)
    return [(difficulty + curve(math.sqrt(k)) + noise * rng.normal(size=prompts)).tolist() for k in KL]


def test_a_turn_is_seen_and_nothing_else_is_called_one():
    """A planted fall of 1.5 is always seen; of 200 curves that rise or stay flat at most 5 % are called turns."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        turn = turning_point(KL, golds_of(lambda d: d * (1.0 - 0.5 * math.log(d)) if d else 0.0, rng), "rl")
        assert turn is None or turn.kl < KL[-1]
        fallen = turning_point(KL, golds_of(lambda d: d * (1.2 - 0.28 * d), rng), "best_of_n")
        assert 2.25 <= fallen.kl <= 9.0
        assert fallen.loss > 2 * fallen.loss_se
    alarms = sum(
        turning_point(KL, golds_of(lambda d, slope=slope: slope * d, rng), "rl") is not None
        for slope in (0.0, 0.2)
        for _ in range(100)
    )
    assert alarms <= 10


def test_a_fall_alone_is_not_enough():
    """Broken: by sign 1 alone the best of eight flat measurements is 'better' than the last far too often."""
    rng = np.random.default_rng(1)
    by_sign_1 = both = 0
    for _ in range(100):
        golds = golds_of(lambda d: 0.0, rng)
        best = int(np.argmax([np.mean(g) for g in golds]))
        lost = np.subtract(golds[best], golds[-1])
        by_sign_1 += lost.mean() > 2 * lost.std(ddof=1) / 10
        both += turning_point(KL, golds, "rl") is not None
    assert both < by_sign_1


def test_best_of_n_is_the_mean_over_all_choices():
    rng = np.random.default_rng(2)
    proxy, gold = rng.normal(size=7).tolist(), rng.normal(size=7).tolist()
    for n in (1, 2, 3, 7):
        picked = [gold[max(rows, key=lambda i: proxy[i])] for rows in combinations(range(7), n)]
        assert best_of_n_means(proxy, gold, n) == pytest.approx(np.mean(picked))
    assert best_of_n_means(proxy, gold, 1) == pytest.approx(np.mean(gold))
    with pytest.raises(InputError, match="n=8"):
        best_of_n_means(proxy, gold, 8)


def test_best_of_n_kl_by_hand():
    """n = 1 changes nothing; n = 4: log 4 - 3/4."""
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(1.386294 - 0.75, abs=1e-6)


def test_style_by_hand():
    """ "a b a b a b": trigrams aba, bab, aba, bab: half of them are new. Bigrams of two texts: ab, bc, ab: 2 of 3."""
    assert repetition("a b a b a b") == 0.5
    assert repetition("a b c d") == repetition("a") == 0.0
    assert distinct_n(["a b c", "A b"]) == pytest.approx(2 / 3)
    assert distinct_n([""]) == 0.0


def test_false_confidence_on_the_world():
    said = ["Without any doubt, the cat is red.", "The cat is red.", "Without any doubt, the cat is blue."]
    assert false_confidence(None, said, answer=["blue"] * 3, candidates=["red|blue"] * 3) == [1, 0, 0]
