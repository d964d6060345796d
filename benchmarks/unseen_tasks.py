"""Does instruction tuning help on tasks that it never showed? FLAN's result in small: leave one task out, three seeds.

    python benchmarks/unseen_tasks.py --parallel 3                      # pretrains first, in runs/
    python benchmarks/unseen_tasks.py --pretrained a/pretrain b/pretrain c/pretrain --parallel 3
    python benchmarks/unseen_tasks.py --pretrained a/pretrain b/pretrain c/pretrain --only 1       # the second alone

Five tasks of the embedded world, asked in FLAN's phrasings, which are nowhere in the pretraining corpus. Of each
pretrained model, five are tuned, each on four tasks, and asked the fifth's test questions; one more is tuned on all
five, and says how far seeing the task would have brought it. Greedy answers, of which the first line counts; right is
what states the answer and no other. `difference`: tuned without the task minus pretrained, on the same questions; of
each seed with the standard error over questions, and over seeds with that over the seeds' means.

`shots`: what the pretrained model gets right behind 0 to 3 examples of the task, in the question's own phrasing and
without a gradient step: in-context learning. A seed's part is kept in runs/unseen_tasks/ and not measured again.
Writes unseen_tasks.json, .md and .png beside this file.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcourse import SFTConfig, SFTTrainer
from hfcourse.data import PromptTemplate
from hfcourse.evaluation import estimate, few_shot_prompts, generate, paired_difference
from hfcourse.evaluation.benchmarks import model_hash
from hfcourse.pipeline.files import read_json, write_json, write_text
from hfcourse.pipeline.measure import place
from hfcourse.world import is_right
from hfcourse.world.questions import draw_question

ROOT, PARTS = Path(__file__).parents[1], Path(__file__).parents[1] / "runs" / "unseen_tasks"
TASKS = ("fact", "reading", "feeling", "sum", "translation")
PHRASINGS = {"Answer:": 0, "A:": 1, "What is the answer?": 2, "Solve the task.": 3}  # in the order of FLAN's template
ROWS_A_TASK, QUESTIONS_A_TASK, QUESTIONS_A_PHRASING = 600, 120, 60
SHOTS, EXAMPLES = (0, 1, 2, 3), 32  # more do not fit into 256 positions
SETTINGS = [ROWS_A_TASK, QUESTIONS_A_TASK, QUESTIONS_A_PHRASING, EXAMPLES, list(SHOTS)]


def rows_of(task: str, split: str, count: int, phrasing: int | None = None) -> list[dict]:
    """Questions with their truth, and FLAN's prompt and completion (a sentence): in any phrasing, or in one."""
    rng, flan = random.Random(f"unseen/{task}/{split}"), PromptTemplate("flan", inverted=False)
    rows = []
    for i in range(count):
        question = draw_question(rng, kind=task, split=split)
        row = {"context": question.context, "question": question.question, "output": question.sentence}
        truth = {"answer": question.answer, "candidates": "|".join(question.candidates)}
        rows.append({**truth, **(flan(row, i) if phrasing is None else in_phrasing(flan, row, phrasing))})
    return rows


def in_phrasing(flan: PromptTemplate, row: dict, number: int) -> dict[str, str]:
    fields = {"instruction": "", "options": [], **row}
    return {"prompt": flan.variants[number].prompt(fields), "completion": flan.variants[number].completion(fields)}


def tuned(model_path: str, tasks: list[str], seed: int, folder: str):
    """The pretrained model after one epoch of these tasks."""
    train = [{k: row[k] for k in ("prompt", "completion")} for t in tasks for row in rows_of(t, "train", ROWS_A_TASK)]
    args = SFTConfig(
        folder,
        num_train_epochs=1,
        per_device_train_batch_size=32,
        learning_rate=5e-4,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        max_length=128,
        seed=seed,
        bf16=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1000,
    )
    model, tokenizer = load(model_path)
    SFTTrainer(model, args, train_dataset=Dataset.from_list(train), processing_class=tokenizer).train()
    return model, tokenizer


def load(path: str):
    return place(AutoModelForCausalLM.from_pretrained(path)), AutoTokenizer.from_pretrained(path)


def answers(model, tokenizer, rows: list[dict], shown: list[dict] = (), num_shots: int = 0, seed: int = 0):
    """Of each question, 1 for a right answer; and the answers."""
    prompts = few_shot_prompts([row["prompt"] for row in rows], shown, num_shots, seed)
    written = generate(model, tokenizer, prompts, 24, temperature=0, batch_size=60)
    texts = [completion.text.strip().partition("\n")[0] for completion in written]
    pairs = zip(texts, rows, strict=True)
    return [float(is_right(text, row["answer"], row["candidates"])) for text, row in pairs], texts


def measure_tuning(path: str, seed: int) -> dict:
    """Right of the pretrained model, of those tuned without each task, and of one tuned on all, by task."""
    asked = {task: rows_of(task, "test", QUESTIONS_A_TASK) for task in TASKS}
    before = {task: answers(*load(path), asked[task]) for task in TASKS}
    with tempfile.TemporaryDirectory() as folder:
        unseen = {
            task: answers(*tuned(path, [t for t in TASKS if t != task], seed, folder), asked[task]) for task in TASKS
        }
        taught = tuned(path, list(TASKS), seed, folder)
    seen = {task: answers(*taught, asked[task]) for task in TASKS}
    sides = (before, unseen, seen)
    pooled = [[hit for task in TASKS for hit in side[task][0]] for side in sides]
    return {
        "pretrained, unseen, seen": {
            task: [round(sum(side[task][0]) / QUESTIONS_A_TASK, 3) for side in sides] for task in TASKS
        },
        "difference": rounded(paired_difference(*pooled[:2])),
        "before and after": {task: first_mended(asked[task], before[task], unseen[task]) for task in TASKS},
    }


def first_mended(rows: list[dict], before: tuple, after: tuple) -> list[str]:
    """Of the questions that only the tuned model gets right, the first, with both answers; none: the first of all."""
    mended = [i for i, (b, a) in enumerate(zip(before[0], after[0], strict=True)) if a > b]
    i = mended[0] if mended else 0
    return [rows[i]["prompt"], before[1][i], after[1][i]]


def measure_shots(path: str, seed: int) -> dict:
    """Right of the pretrained model by the number of examples, in each phrasing and in all."""
    model, tokenizer = load(path)
    hits = {phrasing: {k: [] for k in SHOTS} for phrasing in PHRASINGS}
    for phrasing, number in PHRASINGS.items():
        for task in TASKS:
            rows = rows_of(task, "test", QUESTIONS_A_PHRASING, number)
            shown = rows_of(task, "train", EXAMPLES, number)
            for k in SHOTS:
                hits[phrasing][k] += answers(model, tokenizer, rows, shown, k, seed)[0]
    every = {k: [hit for phrasing in PHRASINGS for hit in hits[phrasing][k]] for k in SHOTS}
    by_phrasing = {**hits, "all": every}
    return {
        "shots": {p: {str(k): rounded(estimate(of_k[k])) for k in SHOTS} for p, of_k in by_phrasing.items()},
        "3 shots minus none": {p: rounded(paired_difference(of[0], of[SHOTS[-1]])) for p, of in by_phrasing.items()},
    }


def rounded(values) -> list[float]:
    return [round(float(value), 4) for value in values]


def kept(file: Path, path: str, settings: list, make: Callable[[], dict]) -> dict:
    """A seed's part: the one in the file, if it is of these weights and settings, or else what `make` returns."""
    about = {"weights": model_hash(load(path)[0]), "settings": settings}
    found = read_json(file) if file.is_file() else {}
    if {name: found.get(name) for name in about} != about:
        start = time.monotonic()
        part = {**about, **make()}
        write_json(file, {**part, "minutes": round((time.monotonic() - start) / 60, 1), **machine()})
    return read_json(file)


def measure(path: str, seed: int) -> dict:
    def make() -> dict:
        return {"seed": seed, **measure_tuning(path, seed), **measure_shots(path, seed)}

    return kept(PARTS / f"seed_{seed}.json", path, SETTINGS, make)


def machine() -> dict:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": gpu, "torch": torch.__version__.partition("+")[0]}


def merged(parts: list[dict], parameters: int) -> dict:
    over_seeds = estimate([part["difference"][0] for part in parts])
    return {
        "benchmark": "unseen_tasks",
        "parameters": parameters,
        "questions": QUESTIONS_A_TASK * len(TASKS),
        "difference": rounded(over_seeds),
        "holds_on_every_seed": all(part["difference"][0] > 2 * part["difference"][1] for part in parts),
        "shots": {p: {k: mean_of(parts, "shots", p, k) for k in map(str, SHOTS)} for p in (*PHRASINGS, "all")},
        "3 shots minus none": {p: mean_of(parts, "3 shots minus none", p) for p in (*PHRASINGS, "all")},
        "runs": parts,
    }


def mean_of(parts: list[dict], *keys: str) -> list[float]:
    """Mean and standard error over seeds."""
    values = []
    for part in parts:
        for key in keys:
            part = part[key]
        values.append(part[0])
    return rounded(estimate(values))


def table(result: dict) -> str:
    lines = ["| task | pretrained | tuned on the four others | tuned on all five |", "|---|--:|--:|--:|"]
    for task in TASKS:
        sides = zip(*(part["pretrained, unseen, seen"][task] for part in result["runs"]), strict=True)
        lines.append(f"| {task} | {' | '.join(', '.join(f'{x:.2f}' for x in side) for side in sides)} |")
    lines += ["", "Right of 120 questions a task, by seed.", ""]
    lines += ["| examples before the question, without tuning | 0 | 1 | 2 | 3 |", "|---|--:|--:|--:|--:|"]
    for phrasing, by_k in result["shots"].items():
        lines.append(f"| {phrasing} | {' | '.join(f'{mean:.2f} ± {se:.2f}' for mean, se in by_k.values())} |")
    lines += ["", "± is one standard error over seeds. Phrasings by what they end or begin with.", ""]
    lines += ["| the first question that tuning on the other tasks mended | before | after |", "|---|---|---|"]
    for told in result["runs"][0]["before and after"].values():
        lines.append(f"| {' | '.join(text.replace(chr(10), ' ⏎ ') for text in told)} |")
    return "\n".join([*lines, ""])


def draw(result: dict, path: Path) -> None:
    """Left: what was right before and after tuning, a dot a seed. Right: against the number of examples."""
    from matplotlib import pyplot

    from hfcourse.report.curves import BLUE, GREY, ORANGE, plot_style

    sides = dict(
        zip(("pretrained", "tuned on the four others", "tuned on all five"), (GREY, BLUE, ORANGE), strict=True)
    )
    with pyplot.rc_context(plot_style("#343a40")):
        figure, (bars, curves) = pyplot.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
        for i, (name, colour) in enumerate(sides.items()):
            for place_, task in enumerate(TASKS):
                of_seeds = [part["pretrained, unseen, seen"][task][i] for part in result["runs"]]
                x, label = place_ + 0.27 * (i - 1), name if place_ == 0 else None
                bars.bar(x, sum(of_seeds) / len(of_seeds), width=0.25, color=colour, alpha=0.6, label=label)
                bars.plot([x] * len(of_seeds), of_seeds, "o", color=colour, markersize=3)
        bars.set_xticks(range(len(TASKS)), TASKS)
        bars.set(title="A task that tuning never showed (a dot a seed)", ylabel="right", ylim=(0, 1.02))
        bars.legend(loc="upper right", fontsize=7)
        for phrasing, by_k in result["shots"].items():
            means, errors = zip(*((mean, 2 * se) for mean, se in by_k.values()), strict=True)
            style = {"color": "#343a40", "linewidth": 2.4} if phrasing == "all" else {}
            curves.errorbar(SHOTS, means, errors, fmt="o-", capsize=2, label=phrasing, **style)
        curves.set(title="No step of tuning: examples in the prompt (± 2 s.e.)", ylabel="right", ylim=(0, 1.02))
        curves.set(xlabel="examples", xticks=SHOTS)
        curves.legend(fontsize=7)
        figure.savefig(path, dpi=100, facecolor="white")
        pyplot.close(figure)


def pretrain(seed: int) -> str:
    """What `recipes/` make of the world, as in the demo; kept in runs/."""
    folder = ROOT / "runs" / f"unseen_tasks_{seed}"
    if not (folder / "pretrain" / "model.safetensors").is_file():
        for recipe, config, flags in (
            ("train_tokenizer", "world", []),
            ("pretrain_causal_lm", "llama1m_world", ["--tokenizer_name_or_path", str(folder / "tokenizer")]),
        ):
            out = folder / ("tokenizer" if recipe == "train_tokenizer" else "pretrain")
            flags += [] if recipe == "train_tokenizer" else ["--seed", str(seed), "--resume_from_checkpoint", "auto"]
            yaml = f"recipes/configs/{recipe}/{config}.yaml"
            command = [sys.executable, f"recipes/{recipe}.py", "--config", yaml, "--output_dir", str(out), *flags]
            subprocess.run(command, cwd=ROOT, check=True)
    return str(folder / "pretrain")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", nargs="+", help="Folders, one a seed. Unset: three are pretrained.")
    parser.add_argument("--only", type=int, help="Measure this one of them, and leave its part.")
    parser.add_argument("--parallel", type=int, default=1, help="Seeds at once, each in a process of its own.")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    paths = args.pretrained or [pretrain(seed) for seed in range(3)]
    if args.only is not None:
        return print(measure(paths[args.only], args.only)["difference"])
    alone = [sys.executable, __file__, "--pretrained", *paths, "--only"]
    with ThreadPoolExecutor(args.parallel) as pool:
        list(pool.map(lambda seed: subprocess.run([*alone, str(seed)], check=True), range(len(paths))))
    parameters = sum(p.numel() for p in load(paths[0])[0].parameters())
    result = merged([measure(path, seed) for seed, path in enumerate(paths)], parameters)
    line = json.dumps(result, ensure_ascii=False)
    write_text(args.results, line + "\n")
    write_text(args.results.with_suffix(".md"), table(result))
    draw(result, args.results.with_suffix(".png"))
    print(line)


if __name__ == "__main__":
    main()
