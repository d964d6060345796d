"""Benchmark results as Markdown and as a figure by subject."""

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.figure import Figure

from hfcourse.report.curves import BLUE, GREY, ORANGE, plot_style

INCHES_A_ROW = 0.24


def benchmarks_markdown(results: dict) -> str:
    """A table of benchmarks.json: a row a task and a metric, groups last; ± is one standard error."""
    settings, hashes = results["settings"], results["model_hash"]
    asked = "all questions" if settings["limit"] is None else f"the first {settings['limit']} questions of each task"
    chat = ", in the chat template" if settings["apply_chat_template"] else ""
    lines = [
        f"# {results['model'].rstrip('/').rpartition('/')[2]}",
        "",
        f"{results['num_parameters']:,} parameters, weights {hashes}; {asked}{chat}; seed {settings['seed']}; "
        f"{results['minutes']:.1f} minutes.",
        "",
        "| task | metric | value ± standard error | questions | cut | examples | data |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, task in results["tasks"].items():
        for metric, m in task["metrics"].items():
            where = f"{task['num_items']} | {task['num_cut']} | {task['num_fewshot']} | {task['data_hash']}"
            lines.append(f"| {name} | {metric} | {_value(m)} | {where} |")
    for name, group in results["groups"].items():
        for metric, m in group["metrics"].items():
            if group["num_tasks"] > 1:
                lines.append(
                    f"| **{name}**, {group['num_tasks']} tasks | {metric} | {_value(m)} | {group['num_items']} | | | |"
                )
    versions = ", ".join(f"{package} {number}" for package, number in results["versions"].items())
    return "\n".join([*lines, "", f"Versions: {versions}.", ""])


def benchmarks_figure(results: dict) -> Figure:
    """One bar a task: its first metric with two standard errors. A group stands together, its mean is a line."""
    tasks = sorted(results["tasks"].items(), key=lambda item: (item[1]["group"], -_first(item[1])[1]["value"]))
    with pyplot.rc_context(plot_style("#343a40")):
        figure, axes = pyplot.subplots(figsize=(7.5, 1.2 + INCHES_A_ROW * len(tasks)), layout="constrained")
        for place, (_, task) in enumerate(tasks):
            _, m = _first(task)
            axes.barh(place, m["value"], height=0.65, color=BLUE, alpha=0.85)
            axes.errorbar(m["value"], place, xerr=2 * m["se"], color=GREY, capsize=2)
        for group in results["groups"]:
            places = [place for place, (_, task) in enumerate(tasks) if task["group"] == group]
            if len(places) > 1 and results["groups"][group]["metrics"]:
                name, m = _first(results["groups"][group])
                ends = (places[0] - 0.5, places[-1] + 0.5)
                label = f"{group}: {name} {m['value']:.3f} ± {2 * m['se']:.3f}"
                axes.plot((m["value"],) * 2, ends, color=ORANGE, linewidth=1.6, label=label)
        axes.set_yticks(range(len(tasks)), [name for name, _ in tasks])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlim=(0, 1), xlabel="first metric of each task; bars of two standard errors")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="lower right")
    return figure


def _first(measured: dict) -> tuple[str, dict]:
    return next(iter(measured["metrics"].items()))


def _value(m: dict) -> str:
    return f"{m['value']:.3f} ± {m['se']:.3f}"
