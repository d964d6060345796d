"""What does pretraining pass on, and which part of the model holds it? A BERT on the agreement language, three seeds.

    python benchmarks/transfer.py                        # eleven CPU minutes on one core
    python benchmarks/transfer.py --num_workers 3        # the seeds side by side

A sentence has four pairs of a noun and the verb behind it, of one of eight classes, among fillers. A BERT (2 layers
of width 64) is pretrained by MaskedLMTrainer or, reading from left to right, by CausalLMTrainer. Then a classifier on
its mean state learns from 128 or 512 labels

    class     the class of the first noun: one word tells it, but most of the 160 nouns are seldom or never labelled
    agrees    whether the first verb is of that class: no word tells it

beginning with nothing of the model, with its embedding table, with all of it. The last line is the result as JSON;
with the three seeds it is written to `transfer.json` too.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from references.agreement_language import AgreementLanguage
from references.transfer import accuracy, pretrain

SEEDS, STEPS, LABELS = (0, 1, 2), 3000, (128, 512)
LANGUAGE = AgreementLanguage(verbs=10, fillers=60, length=14, pairs=4)
STARTS = {
    "random": (None, False),
    "embeddings": ("masked", False),
    "whole": ("masked", True),
    "causal_embeddings": ("causal", False),
    "causal_whole": ("causal", True),
}
MARGINS = (
    ("class_128", "embeddings", "random"),
    ("class_128", "whole", "embeddings"),
    ("class_128", "whole", "causal_whole"),
    ("agrees_512", "whole", "embeddings"),
    ("agrees_512", "whole", "causal_whole"),
)


def one_seed(seed: int, steps: int) -> dict:
    """{"class_128": {start: accuracy}, …, "cpu_seconds": …}"""
    torch.set_num_threads(1)
    begin = time.thread_time()
    with tempfile.TemporaryDirectory() as folder:
        trunks = {name: pretrain(name, LANGUAGE, seed, steps, folder) for name in ("masked", "causal")}
    trunks[None] = None
    result = {}
    for task in ("class", "agrees"):
        for labels in LABELS:
            row = {
                start: round(accuracy(LANGUAGE, task, labels, seed, trunks[objective], whole), 3)
                for start, (objective, whole) in STARTS.items()
            }
            result[f"{task}_{labels}"] = row
            print(f"seed {seed} {task} {labels}: {json.dumps(row)}", file=sys.stderr, flush=True)
    return {**result, "cpu_seconds": round(time.thread_time() - begin)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=STEPS, help="Of pretraining, 128 sentences each.")
    parser.add_argument("--num_workers", type=int, default=1, help="Seeds that run at a time, one thread each.")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.num_workers, get_context("spawn")) as pool:
        by_seed = list(pool.map(partial(one_seed, steps=arguments.steps), arguments.seeds))
    tasks = [f"{task}_{labels}" for task in ("class", "agrees") for labels in LABELS]
    line = json.dumps(
        {
            "benchmark": "transfer",
            "language": asdict(LANGUAGE),
            "steps": arguments.steps,
            "seeds": arguments.seeds,
            "accuracy_of_each_seed": {t: {s: [run[t][s] for run in by_seed] for s in STARTS} for t in tasks},
            "smallest_margin": {
                f"{task}: {better} - {worse}": round(min(run[task][better] - run[task][worse] for run in by_seed), 3)
                for task, better, worse in MARGINS
            },
            "cpu_seconds_of_each_seed": [run["cpu_seconds"] for run in by_seed],
            "machine": f"{platform.machine()}, one thread a run, torch {torch.__version__}",
        }
    )
    if set(SEEDS) <= set(arguments.seeds):
        Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
