"""What a reward model's margins say of themselves: by hand, and on margins whose truth is planted."""

import numpy as np
import pytest

from hfcourse.evaluation import calibration


def test_reliability_by_hand():
    """Margins ±log 3, ±log 9 and a half in between: σ = 3/4 and 9/10."""
    a, b = np.log(3), np.log(9)
    bins = calibration.reliability([a, -a, b, b, b, a, a, -b], num_bins=2)
    assert [x["num_pairs"] for x in bins] == [4, 4]
    assert [x["confidence"] for x in bins] == pytest.approx([0.75, 0.9])
    assert [x["agreement"] for x in bins] == [0.75, 0.75]
    assert calibration.calibration_error(bins) == pytest.approx((0 + 0.15) / 2)


def test_a_calibrated_model_has_no_error_and_a_sharper_one_has():
    """20,000 labels drawn with probability σ(Δ): agreement is confidence, within the noise of 4,000 a bin."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, 20_000)
    margins = np.where(rng.random(20_000) < 1 / (1 + np.exp(-true)), true, -true)
    assert calibration.calibration_error(calibration.reliability(margins)) < 0.015
    assert calibration.calibration_error(calibration.reliability(3 * margins)) > 0.1
    assert calibration.loss(margins) < calibration.loss(3 * margins)
    assert calibration.loss(np.zeros(5)) == pytest.approx(np.log(2))


def test_length_bias_by_hand():
    """Δr = Δlength: correlation 1, the longer always preferred; people chose the longer in 1 of 3."""
    assert calibration.length_bias([2, -1, -3], [2, -1, -3]) == pytest.approx(
        {"length_correlation": 1.0, "longer_preferred": 1.0, "longer_chosen": 1 / 3}
    )
    assert calibration.length_bias([1, 1], [0, 0]) == {"length_correlation": 0.0}
    independent = np.random.default_rng(0).normal(size=(2, 10_000))
    assert abs(calibration.length_bias(*independent)["length_correlation"]) < 0.04


def test_accuracy_by_how_clear_the_label_was():
    bins = calibration.by_label([1, -1, 1, 1], [0.5, 0.6, 0.9, 0.8], num_bins=2)
    assert [(x["strength"], x["accuracy"]) for x in bins] == [(pytest.approx(0.55), 0.5), (pytest.approx(0.85), 1.0)]


def test_the_bootstrap_interval_covers_what_it_should():
    """Of 200 samples of 60 pairs at an accuracy of 0.7, about 95 % of the intervals hold it."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        measured = calibration.accuracy(np.where(rng.random(60) < 0.7, 1.0, -1.0))
        held += measured["accuracy_low"] <= 0.7 <= measured["accuracy_high"]
    assert 0.9 <= held / 200 <= 0.99
