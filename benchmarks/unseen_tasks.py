"""Does instruction tuning help on tasks that it never showed? FLAN's result in small: leave one task out, three seeds.

    python benchmarks/unseen_tasks.py                      # pretrains first, in runs/
    python benchmarks/unseen_tasks.py --pretrained runs/a runs/b runs/c

Five tasks of the embedded world, asked in FLAN's phrasings, which are nowhere in the pretraining corpus. Of each
pretrained model, five are tuned, each on four tasks, and asked the fifth's test questions; one more is tuned on all
five, and says how far seeing the task would have brought it. Greedy answers, of which the first line counts; right is
what states the answer and no other. `difference`: tuned without the task minus pretrained, on the same questions; of
each seed with the standard error over questions, and over seeds with that over the seeds' means. `shots`: accuracy of
the pretrained model behind k examples of the task, without a gradient step.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcourse import SFTConfig, SFTTrainer
from hfcourse.data import PromptTemplate
from hfcourse.evaluation import estimate, few_shot_prompts, generate, paired_difference
from hfcourse.world import is_right
from hfcourse.world.questions import draw_question

ROOT = Path(__file__).parents[1]
TASKS = ("fact", "reading", "feeling", "sum", "translation")
ROWS_A_TASK, QUESTIONS_A_TASK = 600, 120
SHOTS, EXAMPLES = (1, 2, 3), 32  # more do not fit into 256 positions


def rows_of(task: str, split: str, count: int) -> list[dict]:
    """Questions with their truth and an answer in a sentence, as FLAN's prompt and completion."""
    rng, template = random.Random(f"unseen/{task}/{split}"), PromptTemplate("flan", inverted=False)
    rows = []
    for i in range(count):
        question = draw_question(rng, kind=task, split=split)
        row = {"context": question.context, "question": question.question, "output": question.sentence}
        truth = {"answer": question.answer, "candidates": "|".join(question.candidates)}
        rows.append({**truth, **template(row, i)})
    return rows


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
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1000,
    )
    model, tokenizer = load(model_path)
    SFTTrainer(model, args, train_dataset=Dataset.from_list(train), processing_class=tokenizer).train()
    return model, tokenizer


def load(path: str):
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def answers(model, tokenizer, task: str, num_shots: int = 0, seed: int = 0) -> tuple[list[float], list[str]]:
    """Of each test question, 1 for a right answer; and the answers."""
    rows = rows_of(task, "test", QUESTIONS_A_TASK)
    prompts = few_shot_prompts([r["prompt"] for r in rows], rows_of(task, "train", EXAMPLES), num_shots, seed)
    written = generate(model, tokenizer, prompts, 24, temperature=0, batch_size=60)
    texts = [completion.text.strip().partition("\n")[0] for completion in written]
    pairs = zip(texts, rows, strict=True)
    return [float(is_right(text, row["answer"], row["candidates"])) for text, row in pairs], texts


def measure(path: str, seed: int) -> dict:
    """Accuracy of a pretrained model, of those tuned without each task, and of one tuned on all, by task."""
    before = {task: answers(*load(path), task) for task in TASKS}
    unseen = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in TASKS:
            unseen[task] = answers(*tuned(path, [t for t in TASKS if t != task], seed, folder), task)
        taught = tuned(path, list(TASKS), seed, folder)
        seen = {task: answers(*taught, task) for task in TASKS}
    pooled = [[hit for task in TASKS for hit in side[task][0]] for side in (before, unseen)]
    by_task = {
        task: [round(sum(side[task][0]) / QUESTIONS_A_TASK, 3) for side in (before, unseen, seen)] for task in TASKS
    }
    examples = {task: [before[task][1][0], unseen[task][1][0]] for task in TASKS}
    difference, shots = paired_difference(*pooled), {0: pooled[0]}
    for k in SHOTS:
        shots[k] = [hit for task in TASKS for hit in answers(*load(path), task, k, seed)[0]]
    return {
        "pretrained, unseen, seen": by_task,
        "difference": difference,
        "shots": {k: [round(x, 3) for x in estimate(hits)] for k, hits in shots.items()},
        "3 shots minus none": [round(x, 3) for x in paired_difference(shots[0], shots[SHOTS[-1]])],
        "before and after": examples,
    }


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
    arguments = parser.parse_args()
    start, runs = time.monotonic(), []
    for seed, path in enumerate(arguments.pretrained or [pretrain(seed) for seed in range(3)]):
        runs.append(measure(path, seed))
        print(f"seed {seed}: {runs[-1]}", file=sys.stderr, flush=True)
    differences = [run["difference"].mean for run in runs]
    over_seeds = estimate(differences) if len(runs) > 1 else runs[0]["difference"]
    result = {
        "benchmark": "unseen_tasks",
        "parameters": sum(p.numel() for p in load(path)[0].parameters()),
        "questions": QUESTIONS_A_TASK * len(TASKS),
        "runs": [{**run, "difference": [round(x, 3) for x in run["difference"]]} for run in runs],
        "difference": [round(x, 3) for x in over_seeds],
        "holds_on_every_seed": all(run["difference"].is_positive for run in runs),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "torch": torch.__version__.partition("+")[0],
    }
    line = json.dumps(result)
    Path(__file__).with_suffix(".json").write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
