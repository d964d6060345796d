"""Is span corruption the better pretraining for text-to-text tasks? A T5 on the agreement language, three seeds.

    python benchmarks/denoising.py                       # MINUTES on one core
    python benchmarks/denoising.py --num_workers 9       # an objective and a seed each, side by side

T5's paper (https://huggingface.co/papers/1910.10683, Tables 2 and 4) finds that an encoder-decoder pretrained by span
corruption passes on more than one pretrained as a language model, which writes the second part of a text of which it
reads the first. Here a T5 of 2 + 2 layers and width 64 is pretrained either way on the same rows of text by
SpanCorruptionTrainer, and then learns from 512 or 2,048 sentences to write the answer's word:

    class     the class of the first of two nouns
    agrees    whether the first verb is of that class

The last line is the result as JSON; with the three seeds it is written to `denoising.json` too.
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
OBJECTIVES, SEEDS, STEPS = ("random", "prefix_lm", "span_corruption"), (0, 1, 2), 4000
TASKS = tuple(product(("class", "agrees"), (512, 2048)))


def one_run(objective_and_seed: tuple[str, int], steps: int) -> dict:
    """Accuracies after a quarter, half and all of the steps: {"accuracy": {step: {"class_512": …}}, "losses": …}."""
    torch.set_num_threads(1)
    (objective, seed), begin = objective_and_seed, time.thread_time()
    models, losses = {0: new_model(tokenizer(LANGUAGE), seed)}, []
    if objective != "random":
        with tempfile.TemporaryDirectory() as folder:
            models, losses = pretrain(objective, LANGUAGE, seed, (steps // 4, steps // 2, steps), folder)
    rows = {}
    for step, model in models.items():
        rows[step] = {f"{t}_{n}": round(accuracy(LANGUAGE, t, n, seed, model), 3) for t, n in TASKS}
        print(f"{objective}, seed {seed}, step {step}: {json.dumps(rows[step])}", file=sys.stderr, flush=True)
    return {"accuracy": rows, "losses": losses, "cpu_seconds": round(time.thread_time() - begin)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    parser.add_argument("--steps", type=int, default=STEPS, help="Of pretraining, 64 rows of four sentences each.")
    parser.add_argument("--num_workers", type=int, default=1, help="Runs at a time, one thread each.")
    arguments = parser.parse_args()
    jobs = list(product(arguments.objectives[::-1], arguments.seeds))  # the longest first
    with ProcessPoolExecutor(arguments.num_workers, get_context("spawn")) as pool:
        runs = dict(zip(jobs, pool.map(partial(one_run, steps=arguments.steps), jobs), strict=True))
    last = {job: list(run["accuracy"].values())[-1] for job, run in runs.items()}
    line = json.dumps(
        {
            "benchmark": "denoising",
            "steps": arguments.steps,
            "seeds": arguments.seeds,
            "accuracy_of_each_seed": {
                f"{task}_{n}": {
                    o: [last[o, seed][f"{task}_{n}"] for seed in arguments.seeds] for o in arguments.objectives
                }
                for task, n in TASKS
            },
            "runs": {f"{objective}, seed {seed}": run for (objective, seed), run in runs.items()},
            "machine": f"{platform.machine()}, one thread a run, torch {torch.__version__}",
        }
    )
    if set(SEEDS) <= set(arguments.seeds) and len(arguments.objectives) == len(OBJECTIVES):
        Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
