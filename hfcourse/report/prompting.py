"""Self-consistency as a figure: accuracy against the number of samples that vote."""

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.figure import Figure

from hfcourse.report.curves import BLUE, plot_style


def accuracy_by_k_figure(summary: dict) -> Figure:
    """`accuracy_by_k` of evaluation.json, with two standard errors; the same questions and samples at every k."""
    points = summary["accuracy_by_k"]
    with pyplot.rc_context(plot_style("#343a40")):
        figure, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
        k, accuracy = [point["k"] for point in points], [point["accuracy"] for point in points]
        axes.errorbar(k, accuracy, yerr=[2 * point["se"] for point in points], fmt="o-", color=BLUE, capsize=3)
        axes.set(xlabel="samples that vote", ylabel="accuracy", xticks=k, ylim=(0, None))
        axes.set_title(f"Self-consistency on {summary['num_prompts']} questions")
    return figure
