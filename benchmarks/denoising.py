"""Is span corruption the better pretraining for text-to-text tasks? A T5 on the agreement language, three seeds.

    python benchmarks/denoising.py                       # about 75 minutes on one core
    python benchmarks/denoising.py --num_workers 16      # a run a process, side by side: six minutes
    python benchmarks/denoising.py --draw                # the figure of denoising.json anew

T5's paper (https://huggingface.co/papers/1910.10683, Tables 2 and 4) finds that an encoder-decoder pretrained by span
corruption passes on more than one pretrained as a language model, which reads the first part of a text and writes the
second. Here a T5 of 2 + 2 layers and width 64 is pretrained by SpanCorruptionTrainer on the same text, four sentences
a row: as a prefix language model, or with spans hidden at several densities and mean lengths. Then it learns to write
the answer's word,

    class     the class of the first of two nouns, from 128 sentences
    agrees    whether the first verb is of that class, from 2,048

The last line is the result as JSON; with all runs it is written to `denoising.json` too, with `denoising.png`.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from references.agreement_language import AgreementLanguage
from references.denoising import accuracy, new_model, pretrain, tokenizer

LANGUAGE = AgreementLanguage()
SPANS = {"spans_0.15_3": (0.15, 3.0), "spans_0.3_2": (0.3, 2.0), "spans_0.3_1": (0.3, 1.0), "spans_0.5_2": (0.5, 2.0)}
WAYS = ("prefix_lm", *SPANS, "nothing")
SEEDS, STEPS = (0, 1, 2), 2400
TASKS = (("class", 128), ("agrees", 2048))


def one_run(run: tuple[str, int], steps: int) -> dict:
    """{"accuracy": {pretraining step: {"class_128": …}}, "losses": [(step, loss)], "cpu_seconds": …}"""
    torch.set_num_threads(1)
    (way, seed), begin = run, time.thread_time()
    models, losses = {0: new_model(tokenizer(LANGUAGE), seed)}, []
    if way != "nothing":
        with tempfile.TemporaryDirectory() as folder:
            models, losses = pretrain(SPANS.get(way), LANGUAGE, seed, (steps // 4, steps // 2, steps), folder)
    rows = {}
    for step, model in models.items():
        rows[step] = {f"{task}_{n}": round(accuracy(LANGUAGE, task, n, seed, model), 3) for task, n in TASKS}
        print(f"{way}, seed {seed}, step {step}: {json.dumps(rows[step])}", file=sys.stderr, flush=True)
    return {"accuracy": rows, "losses": losses, "cpu_seconds": round(time.thread_time() - begin)}


def draw(runs: dict[str, dict], path: Path) -> None:
    """Accuracy against pretraining steps, a thin line a seed and a colour a way; at 0 what nothing pretrained has."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TASKS), figsize=(9, 3.6), layout="constrained", sharey=True)
    for panel, (task, labels) in zip(panels, TASKS, strict=True):
        for color, way in enumerate(WAYS[:-1]):
            for seed in SEEDS:
                rows = runs[f"nothing, seed {seed}"]["accuracy"] | runs[f"{way}, seed {seed}"]["accuracy"]
                steps, values = [int(step) for step in rows], [row[f"{task}_{labels}"] for row in rows.values()]
                style = {
                    "marker": "o",
                    "markersize": 2.5,
                    "linewidth": 0.9,
                    "label": way if seed == SEEDS[0] else None,
                }
                panel.plot(steps, values, color=f"C{color}", **style)
        panel.set(title=f"{task}, {labels:,} labels", xlabel="pretraining steps", xticks=[0, 600, 1200, 2400])
    panels[0].set_ylabel("accuracy, three seeds")
    panels[-1].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--steps", type=int, default=STEPS, help="Of pretraining, 2,300 tokens each.")
    parser.add_argument("--num_workers", type=int, default=1, help="Runs at a time, one thread each.")
    parser.add_argument("--draw", action="store_true", help="Only the figure, of the JSON that there is.")
    arguments = parser.parse_args()
    results_file = Path(__file__).with_suffix(".json")
    if arguments.draw:
        return draw(json.loads(results_file.read_text("utf-8"))["runs"], results_file.with_suffix(".png"))
    runs = list(product(arguments.ways, arguments.seeds))
    with ProcessPoolExecutor(arguments.num_workers, get_context("spawn")) as pool:
        results = dict(zip(runs, pool.map(partial(one_run, steps=arguments.steps), runs), strict=True))
    last = {run: list(result["accuracy"].values())[-1] for run, result in results.items()}
    line = json.dumps(
        {
            "benchmark": "denoising",
            "steps": arguments.steps,
            "seeds": arguments.seeds,
            "accuracy_of_each_seed": {
                f"{task}_{n}": {
                    way: [last[way, seed][f"{task}_{n}"] for seed in arguments.seeds] for way in arguments.ways
                }
                for task, n in TASKS
            },
            "runs": {f"{way}, seed {seed}": result for (way, seed), result in results.items()},
            "machine": f"{platform.machine()}, one thread a run, torch {torch.__version__}",
        }
    )
    if set(product(WAYS, SEEDS)) <= set(runs):
        results_file.write_text(line + "\n", encoding="utf-8")
        draw(json.loads(line)["runs"], results_file.with_suffix(".png"))
    print(line)


if __name__ == "__main__":
    main()
