"""The curves of a life, drawn from what its trainers logged."""

from io import StringIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from hfcourse.pipeline.results import log_history
from hfcourse.report.table import TITLES

COLOURS = ("#4c6ef5", "#e8590c")

# panel: (stage, what is drawn, [(logged name, label)])
PANELS = (
    ("pretrain", "Pretraining: loss, nats a token", [("loss", "training"), ("eval_loss", "held out")]),
    ("sft", "Instruction tuning: loss", [("loss", "training"), ("eval_loss", "held out")]),
    ("reward", "Reward model: accuracy on pairs", [("accuracy", "training"), ("eval_accuracy", "held out")]),
    ("ppo", "PPO: the reward model's reward", [("reward", "RM(y)"), ("rlhf_reward", "RM(y) − β·KL")]),
    ("ppo", "PPO: KL(policy ‖ SFT), nats a completion", [("kl_sequence", "k1")]),
    (
        "dpo",
        "DPO: reward margin of the pairs",
        [("rewards/margins", "training"), ("eval_rewards/margins", "held out")],
    ),
)


def curves_svg(root: Path) -> list[str]:
    """Each panel as an SVG element."""
    drawings = []
    for panel in PANELS:
        figure, axes = pyplot.subplots(figsize=(4.6, 2.8), layout="constrained")
        _draw(axes, root, *panel)
        drawings.append(_svg(figure))
    return drawings


def rewards_svg(results: dict) -> str:
    """Gold reward of the methods, with two standard errors."""
    figure, axes = pyplot.subplots(figsize=(7.2, 2.6), layout="constrained")
    _draw_rewards(axes, results)
    return _svg(figure)


def write_figure(root: Path, results: dict, path: Path) -> None:
    """The methods, and reward and KL during PPO, as one PNG."""
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.2), layout="constrained", width_ratios=(1.5, 1, 1))
    _draw_rewards(axes[0], results)
    for place, panel in zip(axes[1:], PANELS[3:5], strict=True):
        _draw(place, root, *panel)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw(axes: Axes, root: Path, stage: str, title: str, series: list[tuple[str, str]]) -> None:
    history = log_history(root / stage)
    for (name, label), colour in zip(series, COLOURS, strict=False):
        points = [(log["step"], log[name]) for log in history if name in log]
        if points:
            style = "o-" if name.startswith("eval_") else "-"
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4, linewidth=1.6)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("optimizer step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False)


def _draw_rewards(axes: Axes, results: dict) -> None:
    methods = results["methods"]
    names = [TITLES[name] for name in methods]
    means = [m["gold_reward"] for m in methods.values()]
    axes.barh(names, means, xerr=[2 * m["gold_reward_se"] for m in methods.values()], color=COLOURS[0], height=0.6)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_title("Gold reward on held-out prompts, ± 2 standard errors (the best is 3.5)", fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure) -> str:
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True)
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]
