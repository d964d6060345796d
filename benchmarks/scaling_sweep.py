"""Does a law of small runs foresee a larger one? Sixteen Llamas on real text, and one that is held out.

    python benchmarks/scaling_sweep.py                      # at most half an hour; goes on where it was, in runs/
    python benchmarks/scaling_sweep.py --config recipes/configs/scaling_laws/llama_world.yaml --output_dir runs/other

The text is what every machine with Python has: the sources of its standard library, 30 MB, in pieces of a thousand
characters and more, shuffled. Runs `recipes/scaling_laws.py` with its config. The bound: the held-out run, 1.6 times
the size of the largest that is fitted, within 3 %. `sensitivity`: the same error where runs are left out, N is
counted otherwise, or squares are fitted.
"""

import argparse
import csv
import json
import platform
import random
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from hfcourse.scaling import fit_scaling_law

ROOT = Path(__file__).parents[1]
CORPUS, CONFIG = ROOT / "runs" / "python_sources", "recipes/configs/scaling_laws/llama_python.yaml"
PIECE, NUM_TEST_PIECES = 1000, 500  # characters; pieces end where a definition does
BOUND = 0.03
LEAST_SQUARES = 10.0  # a Huber δ that no residual reaches
COLUMNS = ("hidden_size", "total", "non_embedding", "num_tokens", "loss", "seconds")


def write_corpus() -> None:
    """train.jsonl and test.jsonl of the standard library's sources: pieces that no other is equal to."""
    library, pieces = Path(sysconfig.get_path("stdlib")), set()
    for path in sorted(library.rglob("*.py")):
        if {"site-packages", "encodings"} & set(path.relative_to(library).parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # tests of other encodings
            continue
        piece = ""
        for definition in re.split(r"(?<=\n)\n(?=\S)", text):
            piece += definition + "\n"
            if len(piece) >= PIECE:
                pieces.add(piece)
                piece = ""
        if piece.strip():
            pieces.add(piece)
    pieces = sorted(pieces)
    random.Random(0).shuffle(pieces)
    CORPUS.mkdir(parents=True, exist_ok=True)
    for split, of_split in (("test", pieces[:NUM_TEST_PIECES]), ("train", pieces[NUM_TEST_PIECES:])):
        lines = [json.dumps({"text": piece}) + "\n" for piece in of_split]
        (CORPUS / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "scaling_laws_llama_python")
    args, further = parser.parse_known_args()
    if not CORPUS.is_dir():
        write_corpus()
    folder, flags = args.output_dir, ["--config", args.config, "--output_dir", str(args.output_dir), *further]
    subprocess.run([sys.executable, "recipes/scaling_laws.py", *flags], cwd=ROOT, check=True)
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
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    line = json.dumps(result)
    if args.config == CONFIG and not further:
        Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
        shutil.copy(folder / "figure.png", Path(__file__).with_suffix(".png"))
    print(line)


if __name__ == "__main__":
    main()
