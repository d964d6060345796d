"""A language model's whole life on the embedded world, in about ten minutes on two CPU cores.

    make demo
    python recipes/demo.py --seed 1 --output_dir runs/demo_1

Tokenizer → causal LM → instruction tuning → human preferences → reward model → PPO and DPO → evaluation: every stage
runs the very recipe that you would run. Killed at any moment and started again, it goes on where it was. It ends with
a table, `results.json` and `report.html`, one self-contained file with curves and answers before and after.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from dataclasses import dataclass, field
from pathlib import Path

from hfcourse.pipeline.launch import one_process_only, parse, recipe


@dataclass
class DemoArguments:
    """Where the life goes, and which one."""

    output_dir: str = field(default="runs/demo", metadata={"help": "Folder of stages, results.json and report.html."})
    seed: int = field(default=0, metadata={"help": "Of everything: data, weights, sampling, annotators."})
    fast: bool = field(default=False, metadata={"help": "A tiny life: every stage, no learning to speak of."})


def main():
    one_process_only()
    (args,) = parse(DemoArguments, description=__doc__)

    from rich.console import Console

    from hfcourse.pipeline.files import write_json
    from hfcourse.pipeline.life import life, settings_of
    from hfcourse.pipeline.results import collect
    from hfcourse.pipeline.stages import run_stages
    from hfcourse.report import print_table, write_figure, write_report

    root, recipes = Path(args.output_dir), Path(__file__).parent
    stages = life(root, recipes, args.seed, args.fast)
    results = run_stages(stages, root, settings_of(recipes, args.seed, args.fast))
    numbers = collect(root, results, args.seed, args.fast)
    write_json(root / "results.json", numbers)
    write_report(root, numbers, recipes / "configs")
    write_figure(root, numbers, root / "figure.png")
    print_table(numbers, Console())
    print(f"report: {root / 'report.html'}")


if __name__ == "__main__":
    recipe(main)
