"""The report: one HTML file that needs nothing else, and says what the run showed."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hfcourse.pipeline.files import write_text
from hfcourse.pipeline.life import METHODS
from hfcourse.pipeline.results import samples
from hfcourse.report import comparison
from hfcourse.report.curves import curves_svg, rewards_svg
from hfcourse.report.table import HEADINGS, TITLES, claims, overoptimization, table_rows
from hfcourse.world import gold_terms, is_confident

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "hfcourse")
NUM_ANSWERS = 10
TERMS = {
    "right": "right answer",
    "tone": "asked-for tone",
    "length": "asked-for length",
    "polite": "polite",
    "false_confidence": "false confidence",
    "form": "bad form",
}


def write_report(root: Path, results: dict, configs: Path) -> None:
    """Write `root/report.html` from the life's numbers, curves and answers.

    Args:
        configs: folder of the recipes' YAML files, which are the settings of the run.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    by_method = {method: samples(root, method) for method in METHODS}
    page = environment.get_template("report.html.jinja").render(
        results=results,
        titles=TITLES,
        headings=HEADINGS,
        rows=table_rows(results["methods"]),
        claims=claims(results),
        overoptimization=overoptimization(results["methods"]),
        rewards=rewards_svg(results),
        curves=curves_svg(root, results),
        term_names=[*TERMS.values(), "sounds certain"],
        terms={TITLES[method]: _terms(rows) for method, rows in by_method.items()},
        answers=_answers(by_method),
        comparison=comparison,
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        machine=_machine(),
        settings={path.relative_to(configs).as_posix(): path.read_text("utf-8") for path in _world_configs(configs)},
    )
    write_text(root / "report.html", page)


def _terms(rows: list[dict]) -> list[str]:
    """Mean of each term of the gold reward, and how often an answer sounds certain."""
    columns = ("completion", "answer", "tone", "length", "candidates")
    of_rows = [gold_terms(*(row[name] for name in columns)) for row in rows]
    means = [f"{fmean(terms[name] for terms in of_rows):+.2f}" for name in TERMS]
    return [*means, f"{100 * fmean(is_confident(row['completion']) for row in rows):.0f} %"]


def _answers(by_method: dict[str, list[dict]]) -> list[dict]:
    """Prompts answered by every method: the first of each task, then others in their order. Nothing is chosen."""
    rows = by_method["sft"]
    firsts = {row["task"]: i for i, row in reversed(list(enumerate(rows)))}
    order = [*sorted(firsts.values()), *(i for i in range(len(rows)) if i not in firsts.values())]
    return [
        {"task": rows[i]["task"], "prompt": rows[i]["prompt"], "answers": {m: by_method[m][i] for m in by_method}}
        for i in order[:NUM_ANSWERS]
    ]


def _world_configs(configs: Path) -> list[Path]:
    return sorted(configs.glob("*/*world.yaml"))


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    accelerator = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "none"
    threads = torch.get_num_threads()
    return f"{platform.system()}, {cpu}, {os.cpu_count()} cores, {threads} threads, accelerator: {accelerator}"
