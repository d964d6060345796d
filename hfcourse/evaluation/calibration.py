"""How far a reward model's margins can be trusted: pure functions of margins Δr = r(x, y_w) - r(x, y_l)."""

from collections.abc import Sequence

import numpy as np

from hfcourse.evaluation.statistics import bootstrap_interval, wilson_interval


def accuracy(margins: Sequence[float]) -> dict[str, float]:
    """Share of pairs with Δr > 0, which a tie lowers like a mistake, and its bootstrap interval at 95 %."""
    hits = (np.asarray(margins) > 0).astype(float)
    low, high = bootstrap_interval(hits)
    return {"accuracy": float(hits.mean()), "accuracy_low": low, "accuracy_high": high}


def reliability(margins: Sequence[float], num_bins: int = 5) -> list[dict[str, float]]:
    """σ(|Δr|), how sure the model is of its choice, against how often people agree with it, in bins of equal count.

    Returns:
        A bin each, by rising confidence: num_pairs, its mean confidence, the share of agreement, its Wilson interval.
    """
    x = np.asarray(margins, dtype=np.float64)
    order = np.argsort(np.abs(x), kind="stable")
    bins = []
    for rows in np.array_split(order, min(num_bins, len(x))):
        confidence = 1 / (1 + np.exp(-np.abs(x[rows])))
        hits = int((x[rows] > 0).sum())
        low, high = wilson_interval(hits, len(rows))
        bins.append(
            {
                "num_pairs": len(rows),
                "margin": float(np.abs(x[rows]).mean()),
                "confidence": float(confidence.mean()),
                "agreement": hits / len(rows),
                "agreement_low": low,
                "agreement_high": high,
            }
        )
    return bins


def calibration_error(bins: Sequence[dict[str, float]]) -> float:
    """Expected calibration error Σ_b n_b/n |agreement_b - confidence_b| of [`reliability`]'s bins."""
    total = sum(b["num_pairs"] for b in bins)
    return sum(b["num_pairs"] * abs(b["agreement"] - b["confidence"]) for b in bins) / total


def length_bias(margins: Sequence[float], length_differences: Sequence[float]) -> dict[str, float]:
    """Does the model pay length? The correlation of Δr with Δlength, and what choosing the longer answer would do.

    longer_preferred: share of pairs of unequal length where the longer answer has the higher reward.
    longer_chosen: share of them where people chose it, the accuracy of length alone.
    """
    x, d = np.asarray(margins, dtype=np.float64), np.asarray(length_differences, dtype=np.float64)
    unequal = d != 0
    spread = x.std() * d.std()
    described = {"length_correlation": float(((x - x.mean()) * (d - d.mean())).mean() / spread) if spread else 0.0}
    if unequal.any():
        described["longer_preferred"] = float((x[unequal] * d[unequal] > 0).mean())
        described["longer_chosen"] = float((d[unequal] > 0).mean())
    return described


def loss(margins: Sequence[float]) -> float:
    """Mean Bradley-Terry loss -log σ(Δr); log 2 says nothing."""
    return float(np.logaddexp(0, -np.asarray(margins, dtype=np.float64)).mean())


def by_label(margins: Sequence[float], strengths: Sequence[float], num_bins: int = 3) -> list[dict[str, float]]:
    """Accuracy by how clear the label was (its margin, or how likely people are to agree), in bins of equal count."""
    order = np.argsort(strengths, kind="stable")
    x, s = np.asarray(margins, dtype=np.float64), np.asarray(strengths, dtype=np.float64)
    bins = []
    for rows in np.array_split(order, min(num_bins, len(x))):
        hits = int((x[rows] > 0).sum())
        low, high = wilson_interval(hits, len(rows))
        bins.append({"num_pairs": len(rows), "strength": float(s[rows].mean()), "accuracy": hits / len(rows),
                     "accuracy_low": low, "accuracy_high": high})  # fmt: skip
    return bins
