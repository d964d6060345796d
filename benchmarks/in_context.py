"""Does a language model learn from examples in its prompt, without a gradient step? That depends on its text.

    python benchmarks/in_context.py                                                   # pretrains first, in runs/
    python benchmarks/in_context.py --pretrained a/pretrain b/pretrain c/pretrain --parallel 2

A question tells three facts of a stranger and begins to sum up one of them; which one, only the examples before it
tell. Asked are the model of the demo, whose corpus (`world/corpus`) never keeps to one form within a page, and the
same model after 500 more steps on that corpus, or on as much text of which half are pages that keep to one relation
(`world/lists`). Of these one relation is left out, another for each seed: whether its questions are answered too says
whether a form or the reading of forms was learnt. Greedy answers; right is what states the relation's value in its
first sentence. The last line is the result as JSON; with three seeds it is written to in_context.json, beside its
figure.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from datasets import Dataset
from unseen_tasks import kept, load, pretrain, rounded

from hfcourse import CausalLMConfig, CausalLMTrainer
from hfcourse.data.mixtures import mix
from hfcourse.evaluation import estimate, few_shot_prompts, generate, paired_difference
from hfcourse.pipeline.files import write_text
from hfcourse.world import is_right, load as load_world
from hfcourse.world.facts import VALUES
from hfcourse.world.lists import CUE

PARTS = Path(__file__).parents[1] / "runs" / "in_context"
SHOTS, SEEDS, STEPS, ROWS = (0, 1, 2, 3, 4, 5), (0, 1, 2), 500, 16_000
QUESTIONS = 200  # a relation
LEFT_OUT = ("food", "pet", "job")  # of the lists, by seed
MODELS = ("the demo's", "more corpus", "corpus and lists")
SETTINGS = [list(SHOTS), STEPS, ROWS, QUESTIONS, list(LEFT_OUT)]


def more_text(seed: int, with_lists: bool) -> Dataset:
    """Documents for the further steps: the corpus, or half of it and half lists, without the relation left out."""
    corpus = load_world("corpus", num_examples=ROWS, seed=1 + seed).select_columns("text")
    if not with_lists:
        return corpus
    lists = load_world("lists", num_examples=ROWS, seed=seed)
    lists = lists.filter(lambda row: row["relation"] != LEFT_OUT[seed]).select_columns("text")
    return mix([corpus, lists], [0.5, 0.5], ROWS, seed)[0]


def train_further(path: str, seed: int, with_lists: bool):
    """The model after STEPS more steps, and the tokenizer."""
    model, tokenizer = load(path)
    with tempfile.TemporaryDirectory() as folder:
        args = CausalLMConfig(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=8,
            block_size=256,
            isolate_documents=True,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=20,
            weight_decay=0.1,
            adam_beta2=0.95,
            seed=seed,
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=100,
        )
        CausalLMTrainer(model, args, train_dataset=more_text(seed, with_lists), processing_class=tokenizer).train()
    return model, tokenizer


def entries(relation: str, split: str, count: int) -> list[dict[str, str]]:
    """Entries of the lists of a relation as prompt, completion and the answer in it."""
    pages = load_world("lists", split, streaming=True).filter(lambda row: row["relation"] == relation)
    rows = []
    for page in pages:
        for entry in page["text"].split("\n\n"):
            prompt, completion = entry.split(CUE)
            (answer,) = (value for value in VALUES[relation] if value in completion)
            rows.append({"prompt": prompt + CUE, "completion": completion, "answer": answer})
        if len(rows) >= count:
            return rows[:count]


def right(model, tokenizer, relation: str, num_shots: int, seed: int) -> list[float]:
    """1 for each right answer behind so many examples, which are of other people's facts."""
    asked, shown = entries(relation, "test", QUESTIONS), entries(relation, "validation", QUESTIONS)
    prompts = few_shot_prompts([row["prompt"] for row in asked], shown, num_shots, seed)
    written = generate(model, tokenizer, prompts, 16, temperature=0, batch_size=50)
    texts = [completion.text.strip().partition(".")[0] + "." for completion in written]
    candidates = "|".join(VALUES[relation])
    return [float(is_right(text, row["answer"], candidates)) for text, row in zip(texts, asked, strict=True)]


def measure_model(model, tokenizer, seed: int) -> dict:
    """{"listed" and "left out": {shots: (right, standard error)}, and what the most examples add to none}"""
    hits = {relation: {k: right(model, tokenizer, relation, k, seed) for k in SHOTS} for relation in VALUES}
    result = {}
    for name in ("listed", "left out"):
        of = [relation for relation in VALUES if (relation == LEFT_OUT[seed]) == (name == "left out")]
        pooled = {k: [hit for relation in of for hit in hits[relation][k]] for k in SHOTS}
        result[name] = {str(k): rounded(estimate(pooled[k])) for k in SHOTS}
        result[f"{name}, 5 minus 0"] = rounded(paired_difference(pooled[0], pooled[SHOTS[-1]]))
    return result


def measure(path: str, seed: int) -> dict:
    def make() -> dict:
        part = {"seed": seed, "left_out": LEFT_OUT[seed], MODELS[0]: measure_model(*load(path), seed)}
        for name, with_lists in zip(MODELS[1:], (False, True), strict=True):
            part[name] = measure_model(*train_further(path, seed, with_lists), seed)
            print(seed, name, json.dumps(part[name]), file=sys.stderr, flush=True)
        return part

    return kept(PARTS / f"seed_{seed}.json", path, SETTINGS, make)


def draw(parts: list[dict], path: Path) -> None:
    """Right against the number of examples: a thin line a seed, a thick one their mean."""
    from matplotlib import pyplot

    from hfcourse.report.curves import BLUE, GREY, ORANGE, plot_style

    with pyplot.rc_context(plot_style("#343a40")):
        figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
        titles = {"listed": "Relations that the lists had", "left out": "A relation that they never had"}
        for panel, (kind, title) in zip(panels, titles.items(), strict=True):
            for model, colour in zip(MODELS, (GREY, ORANGE, BLUE), strict=True):
                curves = [[part[model][kind][str(k)][0] for k in SHOTS] for part in parts]
                for curve in curves:
                    panel.plot(SHOTS, curve, color=colour, linewidth=0.7, alpha=0.6)
                means = [sum(of_k) / len(of_k) for of_k in zip(*curves, strict=True)]
                panel.plot(SHOTS, means, "o-", color=colour, linewidth=2, markersize=4, label=model)
            panel.axhline(1 / 3, color=GREY, linestyle=":", linewidth=1)
            panel.set(title=title, xlabel="examples in the prompt", ylim=(0, 1.02))
        panels[0].set_ylabel("right (dotted: one of three facts)")
        panels[1].legend(fontsize=7)
        figure.savefig(path, dpi=100, facecolor="white")
        pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", nargs="+", help="Folders, one a seed. Unset: three are pretrained.")
    parser.add_argument("--only", type=int, help="Measure this one of them, and leave its part in runs/in_context.")
    parser.add_argument("--parallel", type=int, default=1, help="Seeds at once, each in a process of its own.")
    args = parser.parse_args()
    paths = args.pretrained or [pretrain(seed) for seed in SEEDS]
    if args.only is not None:
        torch.set_num_threads(max(1, torch.get_num_threads() // args.parallel))
        return print(json.dumps(measure(paths[args.only], args.only)))
    alone = [sys.executable, __file__, "--parallel", str(args.parallel), "--pretrained", *paths, "--only"]
    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(lambda seed: subprocess.run([*alone, str(seed)], check=True), range(len(paths))))
    parts = [measure(path, seed) for seed, path in enumerate(paths)]
    of_seeds = {
        model: {
            name: rounded(estimate([part[model][name][0] for part in parts]))
            for name in ("listed, 5 minus 0", "left out, 5 minus 0")
        }
        for model in MODELS
    }
    line = json.dumps({"benchmark": "in_context", "5 examples minus none": of_seeds, "runs": parts})
    if len(parts) >= len(SEEDS):
        write_text(Path(__file__).with_suffix(".json"), line + "\n")
        draw(parts, Path(__file__).with_suffix(".png"))
    print(line)


if __name__ == "__main__":
    main()
