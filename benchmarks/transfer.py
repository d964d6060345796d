"""What does pretraining pass on, and which part of the model holds it? A BERT on the agreement language, three seeds.

    python benchmarks/transfer.py                     # about eight CPU minutes; not yet run to its end

A sentence has two pairs of a noun and the verb behind it, of one of eight classes, among fillers. A BERT (2 layers of
width 64) is pretrained by MaskedLMTrainer or, reading from left to right, by CausalLMTrainer. Then a classifier on its
mean state learns from 128 or 512 labels

    class     the class of the first noun: one word tells it, but most of the 160 nouns are seldom or never labelled
    agrees    whether the first verb is of that class: no word tells it

beginning with nothing of the model, with its embedding table, with all of it. The last line is the result as JSON.
"""

import json
import os
import platform
import sys
import tempfile
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from references.agreement_language import AgreementLanguage
from references.transfer import accuracy, pretrain

SEEDS, STEPS = (0, 1, 2), 1000
STARTS = {
    "random": (None, False),
    "embeddings": ("masked", False),
    "whole": ("masked", True),
    "causal_embeddings": ("causal", False),
    "causal_whole": ("causal", True),
}


def one_seed(language: AgreementLanguage, seed: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        trunks = {name: pretrain(name, language, seed, STEPS, folder) for name in ("masked", "causal")}
    trunks[None] = None
    accuracies = {}
    for task in ("class", "agrees"):
        for labels in (128, 512):
            row = {
                start: round(accuracy(language, task, labels, seed, trunks[objective], whole), 3)
                for start, (objective, whole) in STARTS.items()
            }
            accuracies[f"{task}_{labels}"] = row
            print(f"seed {seed} {task} {labels}: {json.dumps(row)}", file=sys.stderr, flush=True)
    return accuracies


if __name__ == "__main__":
    torch.set_num_threads(1)
    begin = time.thread_time()
    by_seed = [one_seed(AgreementLanguage(), seed) for seed in SEEDS]
    result = {
        name: {start: [accuracies[name][start] for accuracies in by_seed] for start in STARTS} for name in by_seed[0]
    }
    smallest_margin = {
        f"{better} - {worse}": round(min(a[better] - a[worse] for a in (s["class_128"] for s in by_seed)), 3)
        for better, worse in (("embeddings", "random"), ("whole", "embeddings"), ("whole", "causal_whole"))
    }
    machine = f"{platform.machine()}, one thread, Python {platform.python_version()}, torch {torch.__version__}"
    print(
        json.dumps(
            {
                "benchmark": "transfer",
                "accuracy_of_each_seed": result,
                "smallest_margin_class_128": smallest_margin,
                "cpu_seconds": round(time.thread_time() - begin),
                "machine": machine,
            }
        )
    )
