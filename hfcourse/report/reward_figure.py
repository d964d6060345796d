"""A reward model's reliability, drawn: how sure it is against how often people agree."""

from pathlib import Path

from matplotlib import pyplot
from matplotlib.axes import Axes

from hfcourse.report.curves import BLUE, GREY, ORANGE, plot_style


def write_reward_figure(report: dict, path: str | Path) -> None:
    """Two panels from a report of [`hfcourse.evaluation.measure_reward_model`], as SVG or PNG by the path's ending.

    Left, σ(|Δr|) against agreement in bins of equal count, with 95 % intervals; below the diagonal it is too sure.
    Right, accuracy by how clear the labels were, or, where that is not known, by the model's own margin.
    """
    with pyplot.rc_context(plot_style("black")):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        _draw_bins(left, report["reliability"], "confidence", "agreement", BLUE)
        left.plot([0.5, 1], [0.5, 1], "--", color=GREY, label="calibrated")
        left.set(xlabel="σ(|Δr|), how sure the model is", ylabel="share of pairs where people agree")
        left.set_title(f"accuracy {report['accuracy']:.3f}, calibration error {report['calibration_error']:.3f}")
        if "accuracy_by_label" in report:
            _draw_bins(right, report["accuracy_by_label"], "strength", "accuracy", ORANGE)
            right.set(xlabel="strength of the label", ylabel="accuracy")
        else:
            _draw_bins(right, report["reliability"], "margin", "agreement", ORANGE)
            right.set(xlabel="|Δr|", ylabel="accuracy")
        right.set_title(f"correlation of Δr with Δlength {report['length_correlation']:.2f}")
        figure.savefig(path)
        pyplot.close(figure)


def _draw_bins(axes: Axes, bins: list[dict], x: str, y: str, colour: str) -> None:
    heights = [b[y] for b in bins]
    below = [b[y] - b[f"{y}_low"] for b in bins]
    above = [b[f"{y}_high"] - b[y] for b in bins]
    axes.errorbar([b[x] for b in bins], heights, yerr=[below, above], fmt="o-", color=colour, capsize=3)
    axes.axhline(0.5, color=GREY, linewidth=0.8)
