"""What runs of `reward_hacking.py` say: where the gold peaks, what is left of it, and all curves.

A curve is a list of measurements: {"kl", "gold", "proxy", "falsely_confident"}, and "step" (of the optimizer) where it
is of training, the start first; a way has one a seed.
"""

import math
from itertools import chain
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
        **({"peak_step_of_each_seed": [round(top["step"]) for top in tops]} if law == "rl" else {}),
        "gained_at_peak": [round(top["gold"] - curve[0]["gold"], 2) for top, curve in zip(tops, curves, strict=True)],
        "lost_since_peak": [
            round(top["gold"] - curve[-1]["gold"], 2) for top, curve in zip(tops, curves, strict=True)
        ],
        "fit": {"alpha": round(fit.alpha, 3), "beta": round(fit.beta, 3), "r2": round(fit.r2, 3)},
        "fitted_peak_d": round(fit.peak_kl**0.5, 2) if math.isfinite(fit.peak_kl) else None,
    }


# (method, what is drawn, against what), a row for each method.
PANELS = (
    (("best of n", "gold", "kl"), ("best of n", "proxy", "kl"), ("best of n", "falsely_confident", "kl")),
    (("PPO", "gold", "kl"), ("PPO", "gold", "step"), ("PPO", "proxy", "step")),
)
LABELS = {
    "gold": "gold reward", "proxy": "proxy, deviations", "falsely_confident": "share falsely confident",
    "kl": "√KL from the SFT model, nats", "step": "updates",
}  # fmt: skip


def draw(curves: dict[str, dict[str, list[list[dict]]]], path: Path) -> None:
    """A row for best of n and one for PPO; thin lines are seeds, a dot is where the mean of the gold peaks."""
    figure, rows = pyplot.subplots(len(PANELS), len(PANELS[0]), figsize=(15, 8), layout="constrained")
    for panel, (method, name, against) in zip(rows.flat, chain(*PANELS), strict=True):
        for way, own in curves[method].items():
            for curve in own:
                panel.plot(*_line([curve], against, name), color=COLOURS[way], alpha=0.2, linewidth=0.8)
            x, y = _line(own, against, name)
            panel.plot(x, y, color=COLOURS[way], linewidth=2.2, label=TITLES[way])
            if name == "gold":
                panel.plot(x[np.argmax(y)], np.max(y), "o", color=COLOURS[way], markersize=7)
        panel.set(xlabel=LABELS[against], ylabel=LABELS[name], title=f"{method}: {LABELS[name]}")
    for row in rows:
        row[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, facecolor="white")


def _line(curves: list[list[dict]], against: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the mean curve."""
    x, y = (np.array(mean_curve(curves, column)) for column in (against, name))
    return (np.sqrt(x) if against == "kl" else x), y
