"""The figure of `real_preferences.py`, from its JSON: losses, accuracies, calibration, margins, PPO, best of n."""

import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

REPORTED = {"reward": "reward model", "proxy": "proxy (half)", "gold": "gold (half)", "dpo": "DPO"}
COLOURS = {"proxy": "#c92a2a", "gold": "#2b8a3e", "reward": "#1864ab", "dpo": "#e8590c", "ppo": "#5f3dc4"}


def draw(result: dict, path: Path) -> None:
    """Six panels from the JSON alone."""
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 8), layout="constrained")
    draw_losses(axes[0, 0], result)
    draw_accuracies(axes[0, 1], result)
    draw_reliability(axes[0, 2], result)
    draw_series(axes[1, 0], result["dpo"]["curves"]["rewards/margins"], "DPO: margin of the implicit rewards", "dpo")
    draw_ppo(axes[1, 1], result["ppo"]["curves"])
    draw_best_of_n(axes[1, 2], result["policies"])
    figure.savefig(path, dpi=110, facecolor="white")
    pyplot.close(figure)


def draw_series(place, points: list, title: str, name: str, **style) -> None:
    place.plot(*zip(*points, strict=True), color=COLOURS[name], **style)
    place.set(xlabel="optimizer step", title=title)


def draw_losses(place, result: dict) -> None:
    for name in ("reward", "dpo"):
        steps, losses = zip(*result[name]["curves"]["loss"], strict=True)
        smooth = [statistics.fmean(losses[max(0, i - 4) : i + 1]) for i in range(len(losses))]
        place.plot(steps, smooth, color=COLOURS[name], label=f"{REPORTED[name]}, training")
        place.plot(steps[-1], result[name]["held_out"]["loss"], "o", color=COLOURS[name], label="held out")
    place.axhline(0.6931, color="grey", linewidth=0.8)
    place.set(xlabel="optimizer step", title="loss, mean of five logs; log 2 says nothing")
    place.legend(frameon=False, fontsize=8)


def draw_accuracies(place, result: dict) -> None:
    for i, name in enumerate(REPORTED):
        for j, of in enumerate(of for of in ("held_out", "hhh_alignment") if of in result[name]):
            r = result[name][of]
            error = [[r["accuracy"] - r["accuracy_low"]], [r["accuracy_high"] - r["accuracy"]]]
            marker = dict(fmt="os"[j], fillstyle=("full", "none")[j], capsize=3, color=COLOURS[name])
            place.errorbar(i + 0.2 * j, r["accuracy"], yerr=error, **marker)
    place.axhline(0.5, color="grey", linewidth=0.8)
    place.set_xticks(range(len(REPORTED)), REPORTED.values())
    place.set(title="accuracy, 95 %: HH-RLHF held out (full), hhh_alignment (open)")


def draw_reliability(place, result: dict) -> None:
    for name in ("reward", "dpo"):
        bins = result[name]["held_out"]["reliability"]
        error = [
            [b["agreement"] - b["agreement_low"] for b in bins],
            [b["agreement_high"] - b["agreement"] for b in bins],
        ]
        x, y = ([b[key] for b in bins] for key in ("confidence", "agreement"))
        place.errorbar(x, y, yerr=error, fmt="o-", capsize=3, color=COLOURS[name], label=REPORTED[name])
    place.plot([0.5, 1], [0.5, 1], "--", color="grey")
    place.set(xlabel="σ(|Δr|), how sure it is", title="share of held-out pairs where people agree")
    place.legend(frameon=False, fontsize=8)


def draw_ppo(place, curves: dict) -> None:
    draw_series(place, curves["reward"], "PPO: proxy reward (left), KL in nats (right)", "proxy")
    draw_series(place.twinx(), curves["kl_sequence"], "", "ppo", linestyle="--")


def draw_best_of_n(place, policies: dict) -> None:
    points = policies["best_of_n"]
    distance = [p["kl_bound"] ** 0.5 for p in points]
    for judge in ("proxy", "gold"):
        error = [2 * p[f"{judge}_se"] for p in points]
        place.errorbar(distance, [p[judge] for p in points], yerr=error, capsize=3, color=COLOURS[judge], label=judge)
        for name, marker in (("ppo", "*"), ("dpo", "D")):
            if name not in policies:
                continue
            own = policies[name]
            label = f"{name}, {judge}"
            place.plot(
                max(own["kl"]["mean"], 0) ** 0.5,
                own[judge]["gain_in_deviations"],
                marker,
                color=COLOURS[judge],
                label=label,
            )
    place.axhline(0, color="grey", linewidth=0.8)
    place.set(
        xlabel="√KL from the base, nats (best of n: of its bound)", title="gain over the base's answers, deviations"
    )
    place.legend(frameon=False, fontsize=8)
