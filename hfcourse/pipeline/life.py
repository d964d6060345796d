"""The whole life of one model as stages, each of which runs the recipe that a user would run."""

import gc
import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from hfcourse.pipeline.stages import Stage

METHODS = ("pretrained", "prompted", "sft", "ppo", "dpo")
MODEL_OF = {"pretrained": "pretrain", "prompted": "pretrain", "sft": "sft", "ppo": "ppo", "dpo": "dpo"}

# A pretrained model does not stop after one answer; a blank line ends its answer, with examples before it or without.
BLANK_LINE = "\n\n"

# What the demo changes in recipes/configs/<recipe>/: nothing, or with --fast the sizes, to see that everything runs.
FULL: dict[str, dict] = {}
FAST: dict[str, dict] = {
    "train_tokenizer": {"num_train_examples": 300, "vocab_size": 400},
    "pretrain_causal_lm": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "max_position_embeddings": 1024,
        "num_train_examples": 400,
        "num_eval_examples": 40,
        "max_steps": 30,
        "learning_rate": 0.01,
        "eval_steps": 15,
        "save_steps": 15,
        "logging_steps": 5,
    },
    "sft": {
        "num_train_examples": 96,
        "num_eval_examples": 16,
        "max_length": 512,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "warmup_steps": 0,
        "logging_steps": 4,
    },
    "label_preferences": {"num_train_examples": 32, "num_eval_examples": 16, "max_completion_length": 64},
    "reward": {"num_train_epochs": 1, "per_device_train_batch_size": 8, "warmup_steps": 0, "logging_steps": 1},
    "ppo": {
        "num_train_examples": 32,
        "per_device_train_batch_size": 4,
        "steps_per_generation": 2,
        "max_steps": 8,
        "logging_steps": 2,
        "save_steps": 4,
    },
    "dpo": {"per_device_train_batch_size": 8, "warmup_steps": 0, "logging_steps": 1},
    "evaluate": {"num_eval_examples": 16, "max_completion_length": 32},
    "prompt": {"num_eval_examples": 16, "max_completion_length": 32},
}


def life(root: Path, recipes: Path, seed: int = 0, fast: bool = False) -> list[Stage]:
    """The stages from raw text to five measured methods; each writes to `root/<stage>`.

    Args:
        root: folder of this life.
        recipes: folder of the recipes and their configs.
        seed: of everything that is drawn: weights, order of the data, samples, annotators.
        fast: a tiny life of the same stages.
    """
    sizes = FAST if fast else FULL
    training = {"resume_from_checkpoint": "auto", "bf16": has_fast_bf16()}

    def run(name: str, folder: Path, flags: dict, config: str = "llama1m_world") -> None:
        flags = {"output_dir": folder, **flags, **sizes.get(name, {})}
        words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
        run_recipe(recipes / f"{name}.py", ["--config", str(recipes / "configs" / name / f"{config}.yaml"), *words])

    def stage(
        name: str, title: str, recipe: str, result: str, flags: dict, learnt: Callable[[dict], str], config=None
    ):
        def work(folder: Path) -> dict:
            run(recipe, folder, flags, *([config] if config else []))
            return json.loads((folder / result).read_text(encoding="utf-8"))

        return Stage(name, title, work, learnt)

    def train(name: str, title: str, recipe: str, flags: dict, learnt: Callable[[dict], str]) -> Stage:
        def work(folder: Path) -> dict:
            run(recipe, folder, {**flags, "seed": seed, **training})
            results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
            return {**results, "logged": first_and_last(folder)}

        return Stage(name, title, work, learnt)

    def evaluate(folder: Path) -> dict:
        for method in METHODS:
            flags = {
                "model_name_or_path": root / MODEL_OF[method],
                "reward_model_path": root / "reward",
                "ref_model_name_or_path": root / "sft",
                "seed": seed,
                **({"stop_string": BLANK_LINE} if MODEL_OF[method] == "pretrain" else {}),
            }
            if not (folder / method / "evaluation.json").is_file():
                run("prompt" if method == "prompted" else "evaluate", folder / method, flags)
        return {m: json.loads((folder / m / "evaluation.json").read_text(encoding="utf-8")) for m in METHODS}

    def rewards(metrics: dict) -> str:
        return "gold reward: " + ", ".join(f"{name} {metrics[name]['gold_reward']:.2f}" for name in METHODS)

    pretrained, sft = {"model_name_or_path": root / "pretrain"}, {"model_name_or_path": root / "sft"}
    tokenizer, reward_model = {"tokenizer_name_or_path": root / "tokenizer"}, {"reward_model_path": root / "reward"}
    pairs = {"dataset_name": root / "preferences"}
    return [
        stage(
            *("tokenizer", "Tokenizer (BPE)", "train_tokenizer", "all_results.json", {}),
            lambda m: f"{m['vocab_size']} tokens, {m['bytes_per_token']:.2f} bytes each",
            config="world",
        ),
        train(
            *("pretrain", "Pretraining (causal LM)", "pretrain_causal_lm", tokenizer),
            lambda m: f"held-out loss {m['eval_loss']:.3f} nats a token",
        ),
        train(
            *("sft", "Instruction tuning (SFT)", "sft", pretrained),
            lambda m: f"held-out loss {m['eval_loss']:.3f} nats a token of the answers",
        ),
        stage(
            *("preferences", "Human preferences", "label_preferences", "preferences.json", {**sft, "seed": seed}),
            lambda m: f"{m['train']['num_pairs']} pairs; Bayes accuracy {m['test']['bayes_accuracy']:.3f}",
        ),
        train(
            *("reward", "Reward model", "reward", {**sft, **pairs}),
            lambda m: f"right on {m['eval_accuracy']:.3f} of held-out pairs",
        ),
        train(
            *("ppo", "RLHF (PPO)", "ppo", {**sft, **reward_model}),
            lambda m: "reward {:.2f} → {:.2f}, KL {:.1f} nats".format(
                *m["logged"]["reward"], m["logged"]["kl_sequence"][1]
            ),
        ),
        train(
            *("dpo", "DPO", "dpo", {**sft, **pairs}),
            lambda m: f"prefers what people prefer in {m['eval_rewards/accuracies']:.3f} of held-out pairs",
        ),
        Stage("evaluation", "Evaluation of five methods", evaluate, rewards),
    ]


def settings_of(recipes: Path, seed: int, fast: bool) -> dict:
    """What a life depends on beside the code; a folder of other settings is not gone on with."""
    configs = b"".join(path.read_bytes() for path in sorted((recipes / "configs").glob("*/*world.yaml")))
    return {"seed": seed, "fast": fast, "configs": hashlib.sha256(configs).hexdigest()[:12]}


def first_and_last(folder: Path) -> dict[str, tuple[float, float]]:
    """Of every number that a training stage logged, the first and the last."""
    logged: dict[str, tuple[float, float]] = {}
    for log in json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]:
        logged |= {name: (logged.get(name, (value,))[0], value) for name, value in log.items()}
    return logged


def run_recipe(recipe: Path, flags: list[str]) -> None:
    """Run a recipe as `python recipe flags…` would, in this process, where the imports are paid for once."""
    argv, sys.argv = sys.argv, [str(recipe), *flags]
    try:
        runpy.run_path(str(recipe), run_name="__main__")
    finally:
        sys.argv = argv
        _forget_accelerate()


def _forget_accelerate() -> None:
    # accelerate keeps one state a process; the next recipe may ask for another precision.
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()


def has_fast_bf16() -> bool:
    """Whether bfloat16 pays: on an accelerator, or on a CPU with matrix units (AMX)."""
    return torch.accelerator.is_available() or torch.cpu._is_amx_tile_supported()
