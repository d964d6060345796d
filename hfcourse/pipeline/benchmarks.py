"""Benchmarks of a saved model, task by task: what is finished is kept, whatever it depends on is written beside it."""

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hfcourse.errors import InputError
from hfcourse.pipeline.files import read_json, write_json, write_jsonl

if TYPE_CHECKING:
    from transformers import Trainer
    from trl import ModelConfig

PACKAGES = ("torch", "transformers", "lm_eval", "datasets", "peft", "hfcourse")


@dataclass
class BenchmarkArguments:
    """Which benchmarks, and how they are asked."""

    _argument_group_name = "benchmarks by lm-eval"

    tasks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "world; a task.yaml of yours; mmlu=FOLDER, bbh_zeroshot=FOLDER, gsm8k_cot=FILE.jsonl, … for local "
            "files; or any task or group of lm-eval, from the Hub. See hfcourse/evaluation/benchmark_tasks.py."
        },
    )
    limit: int | None = field(default=None, metadata={"help": "The first so many questions of each task."})
    num_fewshot: int | None = field(
        default=None, metadata={"help": "Examples before each question. Unset: what each task is defined with."}
    )
    apply_chat_template: bool = field(
        default=False, metadata={"help": "Ask in the tokenizer's chat template, examples as earlier turns."}
    )
    max_gen_toks: int | None = field(
        default=None, metadata={"help": "The longest answer, in tokens. Unset: the task's, or 256."}
    )


@dataclass
class EvalTasksArguments:
    """Benchmarks during training."""

    _argument_group_name = "benchmarks during training"

    eval_tasks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Asked at each evaluation; named as --tasks of recipes/evaluate.py. Logged as eval_<task>/…"
        },
    )
    eval_tasks_limit: int = field(default=50, metadata={"help": "Questions of each task."})


def add_eval_tasks(trainer: "Trainer", args: EvalTasksArguments) -> None:
    """Measure `--eval_tasks` at each evaluation of the trainer. Raises InputError for tasks that are not there."""
    if not args.eval_tasks:
        return
    if trainer.args.eval_strategy == "no":
        raise InputError("eval_tasks: are asked at each evaluation; set --eval_strategy to steps or epoch")
    from hfcourse.callbacks import EvaluateCallback
    from hfcourse.evaluation.benchmark_tasks import load_tasks
    from hfcourse.evaluation.benchmarks import BenchmarkSettings, benchmark

    settings = BenchmarkSettings(limit=args.eval_tasks_limit, batch_size=trainer.args.per_device_eval_batch_size)
    trainer.add_callback(EvaluateCallback(trainer, benchmark(load_tasks(args.eval_tasks, settings.limit), settings)))


def run_benchmarks(
    args: BenchmarkArguments, model_args: "ModelConfig", output_dir: str, batch_size: int, seed: int
) -> dict:
    """Ask every task that `tasks` names; the results, as they stand in benchmarks.json.

    `output_dir/tasks/<task>.json` is a finished task. It is kept by a later run whose model (by its weights), data,
    prompts, settings and versions are the same, and asked anew otherwise. `<task>.jsonl` beside it says which
    questions were answered right.

    Raises:
        InputError: no such model or task, settings that a task does not take, or no lm-eval.
    """
    from hfcourse.evaluation.benchmark_tasks import load_tasks
    from hfcourse.evaluation.benchmarks import (
        BenchmarkSettings,
        data_hash,
        harness_model,
        model_hash,
        quiet_harness,
        run_task,
        task_hash,
    )
    from hfcourse.pipeline.launch import load_tokenizer
    from hfcourse.pipeline.load_model import load_generator
    from hfcourse.pipeline.measure import place

    settings = BenchmarkSettings(
        args.limit, args.num_fewshot, args.apply_chat_template, args.max_gen_toks, batch_size, seed
    )
    model, tokenizer = place(load_generator(model_args)), load_tokenizer(model_args.model_name_or_path)
    lm = harness_model(model, tokenizer, batch_size)
    with quiet_harness():
        tasks = load_tasks(args.tasks, args.limit)
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    weights, results = model_hash(model), {}
    for number, (group, task) in enumerate(tasks, 1):
        name = task.config.task
        stands_for = {
            "model_hash": weights,
            "data_hash": data_hash(task, args.limit),
            "task_hash": task_hash(task),
            "settings": settings._asdict(),
            "versions": versions,
        }
        path = Path(output_dir) / "tasks" / f"{name}.json"
        kept = read_json(path) if path.is_file() else {}
        if {key: kept.get(key) for key in stands_for} != stands_for:
            result = run_task(lm, task, settings)
            write_jsonl(path.with_suffix(".jsonl"), result.items)
            kept = _record(group, result, stands_for)
            write_json(path, kept)
            print(f"[{number}/{len(tasks)}] {name}: {_said(kept)}, {kept['seconds']:.0f} s", flush=True)
        else:
            print(f"[{number}/{len(tasks)}] {name}: {_said(kept)} (kept)", flush=True)
        results[name] = kept
    summary = {
        "model": model_args.model_name_or_path,
        "model_hash": weights,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "settings": settings._asdict(),
        "tasks": {name: {k: v for k, v in r.items() if k not in SAID_ONCE} for name, r in results.items()},
        "groups": _groups(results),
        "minutes": sum(r["seconds"] for r in results.values()) / 60,
        "versions": versions,
    }
    write_json(Path(output_dir) / "benchmarks.json", summary)
    return summary


SAID_ONCE = ("model_hash", "settings", "versions")


def _record(group: str, result, stands_for: dict) -> dict:
    metrics = {name: {"value": value.mean, "se": value.se} for name, value in result.metrics.items()}
    return {
        "group": group,
        "metrics": metrics,
        "num_items": result.num_items,
        "num_fewshot": result.num_fewshot,
        "num_cut": result.num_cut,
        "seconds": result.seconds,
        **stands_for,
    }


def _said(record: dict) -> str:
    metrics = (f"{name} {m['value']:.3f} ± {m['se']:.3f}" for name, m in record["metrics"].items())
    cut = f" ({record['num_cut']} cut: longer than the model's positions)" if record["num_cut"] else ""
    return f"{', '.join(metrics)} on {record['num_items']}{cut}"


def _groups(results: dict[str, dict]) -> dict[str, dict]:
    """Of each group of several tasks, every metric that all of them have, over all their questions."""
    from hfcourse.evaluation.benchmarks import TaskResult, pooled
    from hfcourse.evaluation.statistics import Estimate

    members: dict[str, list[TaskResult]] = {}
    for record in results.values():
        metrics = {name: Estimate(m["value"], m["se"]) for name, m in record["metrics"].items()}
        result = TaskResult(metrics, record["num_items"], record["num_fewshot"], 0, [], record["seconds"])
        members.setdefault(record["group"], []).append(result)
    groups = {}
    for group, of_group in members.items():
        shared = [name for name in of_group[0].metrics if all(name in r.metrics for r in of_group)]
        metrics = {name: pooled(of_group, name) for name in shared}
        groups[group] = {
            "metrics": {name: {"value": value.mean, "se": value.se} for name, value in metrics.items()},
            "num_items": sum(r.num_items for r in of_group),
            "num_tasks": len(of_group),
        }
    return groups
