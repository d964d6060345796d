"""Does a law of small runs foresee a larger one? Sixteen Llamas on the world, and one that is held out.

    python benchmarks/scaling_sweep.py                      # half an hour; goes on where it was, in runs/
    python benchmarks/scaling_sweep.py --output_dir runs/other --seed 1

Runs `recipes/scaling_laws.py` with its config. The bound: the held-out run, 1.9 times the compute of the largest that
is fitted, within 3 %. `sensitivity`: the same error where runs are left out, N is counted otherwise, or squares are
fitted.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

from hfcourse.scaling import fit_scaling_law

ROOT = Path(__file__).parents[1]
BOUND = 0.03
LEAST_SQUARES = 10.0  # a Huber δ that no residual reaches
COLUMNS = ("hidden_size", "total", "non_embedding", "num_tokens", "loss", "seconds")


def sensitivity(runs: list[dict], held_out: dict) -> dict[str, float]:
    """Relative error of the held-out loss under other choices than the recipe's."""
    least = min(run["num_tokens"] for run in runs)
    longer = [run for run in runs if run["num_tokens"] > least]
    choices = {
        "as the recipe": (runs, "total", {}),
        "N without embeddings": (runs, "non_embedding", {}),
        "without the fewest tokens": (longer, "total", {}),
        "least squares": (runs, "total", {"delta": LEAST_SQUARES}),
        "least squares, without the fewest tokens": (longer, "total", {"delta": LEAST_SQUARES}),
    }
    errors = {}
    for name, (rows, count, options) in choices.items():
        law = fit_scaling_law(*([row[c] for row in rows] for c in (count, "num_tokens", "loss")), **options)
        errors[name] = round(float(law.loss(held_out[count], held_out["num_tokens"])) / held_out["loss"] - 1, 4)
    return errors


def main():
    folder, arguments = ROOT / "runs" / "scaling_laws_llama_world", sys.argv[1:]
    if "--output_dir" in arguments:
        folder = Path(arguments[arguments.index("--output_dir") + 1])
    config = "recipes/configs/scaling_laws/llama_world.yaml"
    command = [sys.executable, "recipes/scaling_laws.py", "--config", config, "--output_dir", str(folder)]
    subprocess.run([*command, *arguments], cwd=ROOT, check=True)
    numbers = json.loads((folder / "law.json").read_text(encoding="utf-8"))
    with (folder / "runs.csv").open(encoding="utf-8") as file:
        rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    result = {
        "benchmark": "scaling_sweep",
        **{name: numbers[name] for name in ("law", "interval", "a", "a_interval", "a_counted_as", "held_out")},
        "residual_deviation": round(numbers["residual_deviation"], 4),
        "unfinished_too_high": [round(gap, 3) for gap in numbers["unfinished_too_high"]],
        "sensitivity": sensitivity(rows[:-1], rows[-1]),
        "within_bound": abs(numbers["held_out"]["error"]) <= BOUND,
        "runs": [[round(row[name], 4) for name in COLUMNS] for row in rows],
        "minutes": round(numbers["minutes"], 1),
    }
    line = json.dumps(result)
    Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
