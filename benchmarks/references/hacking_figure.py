"""What runs of `reward_hacking.py` say: where the gold peaks, what is left of it, and all curves against √KL.

A curve is a list of measurements: {"kl", "gold", "proxy", "falsely_confident"}, the start first; a way has one a seed.
"""

import math
from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot

from hfcourse.evaluation.overoptimization import fit_gold_curve

TITLES = {
    "few": "few noisy pairs", "clean": "few pairs, judged truly", "many": "many noisy pairs",
    "ensemble": "few noisy pairs, 4 reward models", "beta": "few noisy pairs, larger β",
}  # fmt: skip
COLOURS = {"few": "#c92a2a", "clean": "#2b8a3e", "many": "#1864ab", "beta": "#e8590c", "ensemble": "#5f3dc4"}


def mean_curve(curves: list[list[dict]], name: str) -> list[float]:
    return np.mean([[m[name] for m in curve] for curve in curves], axis=0).tolist()


def summary(curves: list[list[dict]], law: Literal["best_of_n", "rl"]) -> dict:
    """Of one way: where the gold peaks (of the mean over seeds, and of each), what is left at the end, Gao's fit."""
    means = {name: mean_curve(curves, name) for name in ("kl", "gold", "proxy", "falsely_confident")}
    best, gold = int(np.argmax(means["gold"])), means["gold"]
    fit = fit_gold_curve(means["kl"], [g - gold[0] for g in gold], law)
    tops = [max(curve, key=lambda m: m["gold"]) for curve in curves]

    def at(i: int) -> dict:
        point = {name: round(values[i], 3) for name, values in means.items() if name != "kl"}
        return {"d": round(means["kl"][i] ** 0.5, 2), **point}

    return {
        "start": at(0),
        "peak": at(best),
        "end": at(-1),
        "peak_d_of_each_seed": [round(top["kl"] ** 0.5, 2) for top in tops],
        "gained_at_peak": [round(top["gold"] - curve[0]["gold"], 2) for top, curve in zip(tops, curves, strict=True)],
        "lost_since_peak": [
            round(top["gold"] - curve[-1]["gold"], 2) for top, curve in zip(tops, curves, strict=True)
        ],
        "fit": {"alpha": round(fit.alpha, 3), "beta": round(fit.beta, 3), "r2": round(fit.r2, 3)},
        "fitted_peak_d": round(fit.peak_kl**0.5, 2) if math.isfinite(fit.peak_kl) else None,
    }


def draw(curves: dict[str, dict[str, list[list[dict]]]], path: Path) -> None:
    """A row for best of n and one for PPO; thin lines are seeds, a dot is where the mean of the gold peaks."""
    labels = {"gold": "gold reward", "proxy": "proxy, deviations", "falsely_confident": "share falsely confident"}
    figure, rows = pyplot.subplots(2, 3, figsize=(15, 8), layout="constrained")
    for row, (method, by_way) in zip(rows, curves.items(), strict=True):
        for panel, (name, label) in zip(row, labels.items(), strict=True):
            for way, own in by_way.items():
                for curve in own:
                    d = [m["kl"] ** 0.5 for m in curve]
                    panel.plot(d, [m[name] for m in curve], color=COLOURS[way], alpha=0.2, linewidth=0.8)
                d, mean = [kl**0.5 for kl in mean_curve(own, "kl")], mean_curve(own, name)
                panel.plot(d, mean, color=COLOURS[way], linewidth=2.2, label=TITLES[way])
                if name == "gold":
                    best = int(np.argmax(mean))
                    panel.plot(d[best], mean[best], "o", color=COLOURS[way], markersize=7)
            panel.set(xlabel="√KL from the SFT model, nats", ylabel=label, title=f"{method}: {label}")
        row[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, facecolor="white")
