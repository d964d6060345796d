"""The curves of a life, drawn from what its trainers logged."""

from io import StringIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hfcourse.pipeline.results import log_history
from hfcourse.report.table import TITLES

BLUE, ORANGE, GREY = "#4c6ef5", "#e8590c", "#868e96"
METHOD_COLOURS = {"pretrained": GREY, "prompted": GREY, "sft": "#15aabf", "ppo": BLUE, "dpo": ORANGE}

# Stands for the page's own text colour while matplotlib draws: an inline SVG then follows the light or dark page.
INK = "#010203"

# stage, what is drawn, unit of the vertical axis, {logged name: label}; held-out points are drawn with markers
PANELS = (
    ("pretrain", "Pretraining: loss", "nats a token", {"loss": "training", "eval_loss": "held out"}),
    ("sft", "Instruction tuning: loss", "nats a token", {"loss": "training", "eval_loss": "held out"}),
    ("reward", "Reward model: loss", "-log σ(margin)", {"loss": "training", "eval_loss": "held out"}),
    ("reward", "Reward model: accuracy", "share of pairs", {"accuracy": "training", "eval_accuracy": "held out"}),
    (
        "ppo",
        "PPO: reward of the reward model",
        "reward",
        {"reward": "RM(y)", "rlhf_reward": "less β·KL and penalties"},
    ),
    ("ppo", "PPO: distance from the SFT model", "KL, nats an answer", {"kl_sequence": ""}),
    (
        "dpo",
        "DPO: implicit reward margin",
        "reward",
        {"rewards/margins": "training", "eval_rewards/margins": "held out"},
    ),
    (
        "dpo",
        "DPO: implicit rewards of the pairs",
        "reward",
        {"rewards/chosen": "preferred", "rewards/rejected": "not preferred"},
    ),
)
IN_FIGURE = (4, 5)


def curves_svg(root: Path, results: dict) -> list[str]:
    """Each panel as an SVG element."""
    drawings = []
    for number, panel in enumerate(PANELS):
        with pyplot.rc_context(plot_style(INK, svg_salt=str(number))):
            figure, axes = pyplot.subplots(figsize=(4.4, 2.6), layout="constrained")
            _draw_panel(axes, root, results, *panel)
            drawings.append(_svg(figure))
    return drawings


def rewards_svg(results: dict) -> str:
    """Gold reward of the methods, with two standard errors, as an SVG element."""
    with pyplot.rc_context(plot_style(INK, svg_salt="rewards")):
        figure, axes = pyplot.subplots(figsize=(8.8, 2.4), layout="constrained")
        _draw_rewards(axes, results)
        return _svg(figure)


def write_figure(root: Path, results: dict, path: Path) -> None:
    """The methods, and reward and KL during PPO, as one PNG on white."""
    with pyplot.rc_context(plot_style("#343a40")):
        figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.1), layout="constrained", width_ratios=(1.5, 1, 1))
        _draw_rewards(axes[0], results)
        axes[0].set_title("Gold reward on held-out prompts (± 2 standard errors)")
        for place, number in zip(axes[1:], IN_FIGURE, strict=True):
            _draw_panel(place, root, results, *PANELS[number])
        figure.savefig(path, dpi=140, facecolor="white")
        pyplot.close(figure)


def plot_style(ink: str, svg_salt: str = "hfcourse") -> dict:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
    return {
        **dict.fromkeys(inked, ink),
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.color": GREY,
        "grid.alpha": 0.25,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "svg.fonttype": "none",  # text stays text, in the page's own font
        "svg.hashsalt": svg_salt,  # the same life, the same bytes; and ids that differ from figure to figure
    }


def _draw_panel(axes: Axes, root: Path, results: dict, stage: str, title: str, unit: str, series: dict[str, str]):
    history = log_history(root / stage)
    for (name, label), colour in zip(series.items(), (BLUE, ORANGE), strict=False):
        points = [(log["step"], log[name]) for log in history if name in log]
        if points:
            style = "o-" if name.startswith("eval_") else "-"
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4, linewidth=1.6)
    if "accuracy" in series:
        axes.axhline(results["reward_model"]["bayes_accuracy"], color=GREY, linestyle="--", label="best possible")
    axes.set(title=title, xlabel="optimizer step", ylabel=unit)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend()


def _draw_rewards(axes: Axes, results: dict) -> None:
    methods = results["methods"]
    for place, (name, m) in enumerate(methods.items()):
        axes.barh(place, m["gold_reward"], height=0.62, color=METHOD_COLOURS[name], alpha=0.85)
        axes.errorbar(
            m["gold_reward"], place, xerr=2 * m["gold_reward_se"], color=axes.xaxis.label.get_color(), capsize=3
        )
    axes.set_yticks(range(len(methods)), [TITLES[name] for name in methods])
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("gold reward (a perfect answer has 3.5)")


def _svg(figure: Figure) -> str:
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(INK, "currentColor")
