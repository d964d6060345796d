"""A law beside its runs: loss against parameters, tokens and compute, and the isoFLOP curves."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from hfcourse.report.curves import GREY, ORANGE, plot_style
from hfcourse.scaling import ScalingLaw
from hfcourse.scaling.laws import FLOPS_PER_PARAM_TOKEN

COLOURS = pyplot.get_cmap("viridis")
MAX_LINES = 8  # a csv of two hundred runs has two hundred sizes: then colour alone tells them apart
NUM_BUDGETS = 5


def write_scaling_figure(
    path: str | Path,
    law: ScalingLaw,
    num_params: ArrayLike,
    num_tokens: ArrayLike,
    losses: ArrayLike,
    held_out: dict | None = None,
) -> None:
    """Four panels as one PNG: points are runs, lines the law, a star the run that was foreseen and then made.

    Args:
        held_out: with `num_params`, `num_tokens`, `loss` and `foreseen`.
    """
    n, d, loss = (np.asarray(column, dtype=np.float64) for column in (num_params, num_tokens, losses))
    flops = FLOPS_PER_PARAM_TOKEN * n * d
    with pyplot.rc_context(plot_style("#343a40")):
        figure, axes = pyplot.subplots(1, 4, figsize=(17, 3.8), layout="constrained")
        _draw_against(axes[0], n, d, loss, lambda x, fixed: law.loss(x, fixed), "parameters N", "D")
        _draw_against(axes[1], d, n, loss, lambda x, fixed: law.loss(fixed, x), "tokens D", "N")
        _draw_compute(axes[2], law, flops, n, loss)
        _draw_isoflops(axes[3], law, flops, n, loss)
        if held_out is not None:
            _draw_held_out(axes, held_out)
        for place in axes:
            place.set(xscale="log", yscale="log", ylabel="loss, nats a token")
            place.yaxis.set_major_formatter("{x:.2g}")
            place.yaxis.set_minor_formatter("{x:.2g}")
        figure.savefig(path, dpi=140, facecolor="white")
        pyplot.close(figure)


def _draw_against(axes: Axes, x, fixed, loss, curve, label: str, name: str) -> None:
    """Loss over x, one colour for each value of what is held fixed, with the law's line through it."""
    values = np.unique(fixed)
    shade = _shades(values)
    line = np.geomspace(x.min(), x.max() * 1.5, 100)
    for value in values if len(values) <= MAX_LINES else np.geomspace(values[0], values[-1], MAX_LINES):
        at = fixed == value
        axes.plot(line, curve(line, value), color=shade(value), linewidth=1.2)
        axes.plot([], [], "o-", color=shade(value), markersize=4, label=f"{name} = {_short(value)}")
        if len(values) <= MAX_LINES:
            axes.plot(x[at], loss[at], "o", color=shade(value), markersize=5)
    if len(values) > MAX_LINES:
        axes.scatter(x, loss, s=10, c=[shade(value) for value in fixed])
    axes.set(xlabel=label, title=f"L over {label[-1]}: runs and law")
    axes.legend(fontsize=7)


def _draw_compute(axes: Axes, law: ScalingLaw, flops, n, loss) -> None:
    shade = _shades(np.unique(n))
    axes.scatter(flops, loss, s=18, c=[shade(value) for value in n])
    line = np.geomspace(flops.min(), flops.max() * 3, 100)
    axes.plot(line, law.optimal_loss(line), "--", color=ORANGE, label="best of each budget, L(N*(C), D*(C))")
    axes.set(xlabel="compute C = 6 N D, FLOPs", title="L over C: colour is N")
    axes.legend(fontsize=7)


def _draw_isoflops(axes: Axes, law: ScalingLaw, flops, n, loss) -> None:
    budgets = np.geomspace(flops.min() * 2, flops.max(), NUM_BUDGETS)
    shade = _shades(budgets)
    line = np.geomspace(n.min() / 3, n.max() * 3, 200)
    for budget in budgets:
        axes.plot(line, law.loss(line, budget / (FLOPS_PER_PARAM_TOKEN * line)), color=shade(budget), linewidth=1.2)
        near = np.abs(np.log(flops / budget)) < 0.35
        axes.plot(n[near], loss[near], "o", color=shade(budget), markersize=4, label=f"C = {budget:.1e}")
    axes.plot(law.compute_optimal(budgets)[0], law.optimal_loss(budgets), "x--", color=ORANGE, label="N*(C)")
    axes.set(xlabel="parameters N", title="isoFLOP curves of the law, runs within 40 %")
    axes.set_ylim(loss.min() / 1.05, loss.max() * 1.2)
    axes.legend(fontsize=7)


def _draw_held_out(axes, held_out: dict) -> None:
    n, d = held_out["num_params"], held_out["num_tokens"]
    for place, x in zip(axes, (n, d, FLOPS_PER_PARAM_TOKEN * n * d, n), strict=True):
        place.plot(x, held_out["loss"], "*", color=ORANGE, markersize=11, label="held out")
        place.plot(x, held_out["foreseen"], "_", color=GREY, markersize=14, label="foreseen")
        place.legend(fontsize=7)


def _shades(values):
    low, high = np.log(values.min()), np.log(values.max())
    return lambda value: COLOURS(0.9 * (np.log(value) - low) / max(high - low, 1e-9))


def _short(value: float) -> str:
    value = float(f"{value:.3g}")  # 999,936 is 1 M, not 1000 k
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if unit <= value < 1e12:
            return f"{value / unit:.3g} {name}"
    return f"{value:.1e}" if value >= 1e12 else f"{value:.3g}"
