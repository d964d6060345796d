"""The report: one HTML file that needs nothing else, and says what the run showed."""

import platform
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from hfcourse.pipeline.life import METHODS
from hfcourse.pipeline.results import samples
from hfcourse.report.curves import curves_svg, rewards_svg
from hfcourse.report.table import HEADINGS, TITLES, claims, table_rows

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "hfcourse")
NUM_SAMPLES = 8

# The course's closing table.
COMPARISON = (
    ("", "prompting", "instruction tuning", "RLHF (PPO)", "DPO"),
    ("idea", "show examples", "imitate good answers", "optimize a learnt reward", "fit preferences directly"),
    ("changes parameters?", "no", "yes", "yes", "yes"),
    ("stage", "use", "after pretraining", "after SFT (optional)", "after SFT (optional)"),
    ("data", "a few examples", "instructions with answers", "prompts, comparisons", "comparisons"),
    ("human labels", "a handful", "written answers", "comparisons", "comparisons"),
    ("compute", "longer prompts", "one pass over the data", "generation, four models", "one pass, two models"),
    ("strengths", "nothing to train", "simple, stable", "explores; any reward", "no reward model, stable"),
    (
        "weaknesses",
        "limited, sensitive",
        "copies faults, needs writers",
        "reward hacking, many knobs",
        "learns from fixed answers",
    ),
    ("uses", "quick trials", "following instructions", "alignment, reasoning", "alignment"),
    ("works", "GPT-3", "FLAN, Alpaca", "InstructGPT, Llama 2", "Zephyr, Llama 3"),
)


def write_report(root: Path, results: dict) -> None:
    """Write `root/report.html` from the life's numbers, curves and answers."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        results=results,
        headings=HEADINGS,
        rows=table_rows(results["methods"]),
        claims=claims(results["differences"]),
        rewards=rewards_svg(results),
        curves=curves_svg(root),
        answers=_answers(root),
        titles=[TITLES[name] for name in METHODS],
        comparison=COMPARISON,
        versions={name: version(name) for name in PACKAGES},
        machine=f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )
    (root / "report.html").write_text(page, encoding="utf-8")


def _answers(root: Path) -> list[dict]:
    """The same prompts answered by every method: the first of each task, then others."""
    by_method = {name: samples(root, name) for name in METHODS}
    tasks = [row.get("task", "") for row in by_method["sft"]]
    firsts = [tasks.index(task) for task in dict.fromkeys(tasks)]
    others = [i for i in range(len(tasks)) if i not in firsts]
    return [
        {"prompt": by_method["sft"][i]["prompt"], "answers": [by_method[name][i] for name in METHODS]}
        for i in (firsts + others)[:NUM_SAMPLES]
    ]
