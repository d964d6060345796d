"""The whole life of one model as stages, each of which runs the recipe that a user would run."""

import gc
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from hfcourse.evaluation.statistics import paired_difference
from hfcourse.pipeline.stages import Stage, StageResult

METHODS = ("pretrained", "prompted", "sft", "ppo", "dpo")
MODEL_OF = {"pretrained": "pretrain", "prompted": "pretrain", "sft": "sft", "ppo": "ppo", "dpo": "dpo"}

# What is claimed of each pair of methods, and measured on the same held-out prompts.
COMPARISONS = (("pretrained", "prompted"), ("prompted", "sft"), ("sft", "ppo"), ("sft", "dpo"))

NUM_SHOTS = 4

# Sizes of a life of about ten minutes, and of one that is only there to see that everything runs.
FULL = {"prompts": 2000, "test_prompts": 400, "demonstrations": 5000, "flags": {}}
FAST = {
    "prompts": 64,
    "test_prompts": 16,
    "demonstrations": 64,
    "flags": {
        "train_tokenizer": ["--num_train_examples", "300", "--vocab_size", "400"],
        "pretrain_causal_lm": [
            "--max_steps",
            "6",
            "--num_train_examples",
            "400",
            "--hidden_size",
            "32",
            "--num_hidden_layers",
            "1",
            "--num_eval_examples",
            "40",
            "--eval_steps",
            "3",
            "--save_steps",
            "3",
            "--logging_steps",
            "2",
        ],
        "sft": [
            "--num_train_examples",
            "64",
            "--num_eval_examples",
            "16",
            "--max_length",
            "256",
            "--logging_steps",
            "1",
        ],
        "reward": ["--num_train_epochs", "1", "--logging_steps", "1"],
        "ppo": [
            "--num_train_examples",
            "64",
            "--per_device_train_batch_size",
            "4",
            "--steps_per_generation",
            "2",
            "--max_steps",
            "8",
            "--logging_steps",
            "2",
            "--save_steps",
            "4",
        ],
        "dpo": ["--logging_steps", "1"],
    },
}


def life(root: Path, recipes: Path, seed: int = 0, fast: bool = False) -> list[Stage]:
    """The stages from raw text to five measured methods; each writes to `root/<stage>`.

    Args:
        root: folder of this life.
        recipes: folder of the recipes.
        seed: of everything: data order, weights, sampling, annotators.
        fast: a tiny life of the same stages.
    """
    sizes = FAST if fast else FULL
    train_flags = ["--seed", str(seed), "--resume_from_checkpoint", "auto", "--disable_tqdm", "true"]
    train_flags += ["--bf16", "true"] if has_fast_bf16() else []
    prompts = ["--num_train_examples", str(sizes["prompts"]), "--num_eval_examples", str(sizes["test_prompts"])]

    def run(name: str, config: str | None, *flags: str) -> None:
        config_flags = ["--config", str(recipes / "configs" / name / f"{config}.yaml")] if config else []
        run_recipe(recipes / f"{name}.py", [*config_flags, *flags, *sizes["flags"].get(name, [])])

    def train(name: str, config: str, *flags: str) -> Callable[[Path], dict]:
        def stage(folder: Path) -> dict:
            run(name, config, "--output_dir", str(folder), *train_flags, *flags)
            return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))

        return stage

    def tokenizer(folder: Path) -> dict:
        run("train_tokenizer", "world", "--output_dir", str(folder))
        return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))

    def preferences(folder: Path) -> dict:
        world = ["--dataset_name", "world/prompts", "--template", "four_part_en", "--seed", str(seed)]
        run(
            "label_preferences",
            None,
            "--model_name_or_path",
            path("sft"),
            "--output_dir",
            str(folder),
            *world,
            *prompts,
        )
        return json.loads((folder / "preferences.json").read_text(encoding="utf-8"))

    def evaluation(folder: Path) -> dict:
        for method in METHODS:
            if not (folder / method / "evaluation.json").is_file():
                run("prompt" if method == "prompted" else "evaluate", None, *evaluate_flags(method, folder / method))
        return {m: json.loads((folder / m / "evaluation.json").read_text(encoding="utf-8")) for m in METHODS}

    def evaluate_flags(method: str, folder: Path) -> list[str]:
        shots = ["--shots_dataset_name", "world/instructions", "--num_shots", str(NUM_SHOTS)]
        return [
            *(
                "--model_name_or_path",
                path(MODEL_OF[method]),
                "--output_dir",
                str(folder),
                "--template",
                "four_part_en",
            ),
            *("--dataset_name", "world/prompts", "--num_eval_examples", str(sizes["test_prompts"])),
            *("--reward_model_path", path("reward"), "--ref_model_path", path("sft"), "--seed", str(seed)),
            *(shots if method == "prompted" else []),
        ]

    def path(stage: str) -> str:
        return str(root / stage)

    sft_model, pairs = ["--model_name_or_path", path("sft")], ["--dataset_name", path("preferences")]
    reward_model = ["--reward_model_path", path("reward")]
    demonstrations = ["--num_train_examples", str(sizes["demonstrations"])]
    pretrained = ["--model_name_or_path", path("pretrain")]
    own_tokenizer = ["--tokenizer_name_or_path", path("tokenizer")]
    return [
        Stage("tokenizer", "Tokenizer", tokenizer, lambda m: f"{m['bytes_per_token']:.2f} bytes a token"),
        Stage(
            "pretrain",
            "Pretraining (causal LM)",
            train("pretrain_causal_lm", "llama3m_world", *own_tokenizer),
            lambda m: f"held-out loss {m['eval_loss']:.3f} nats a token",
        ),
        Stage(
            "sft",
            "Instruction tuning (SFT)",
            train("sft", "llama3m_world", *pretrained, *demonstrations),
            lambda m: f"held-out loss {m['eval_loss']:.3f}",
        ),
        Stage(
            "preferences",
            "Human preferences",
            preferences,
            lambda m: f"{m['train']['pairs']} pairs, Bayes accuracy {m['test']['bayes_accuracy']:.3f}",
        ),
        Stage(
            "reward",
            "Reward model",
            train("reward", "llama3m_world", *sft_model, *pairs),
            lambda m: f"held-out accuracy {m['eval_accuracy']:.3f}",
        ),
        Stage(
            "ppo",
            "PPO",
            train("ppo", "llama3m_world", *sft_model, *reward_model),
            lambda m: f"{m['train_runtime']:.0f} s of rollouts and updates",
        ),
        Stage(
            "dpo",
            "DPO",
            train("dpo", "llama3m_world", *sft_model, *pairs),
            lambda m: f"held-out accuracy {m['eval_rewards/accuracies']:.3f}",
        ),
        Stage(
            "evaluation",
            "Evaluation of five methods",
            evaluation,
            lambda m: "gold reward " + ", ".join(f"{name} {m[name]['gold_reward']:.2f}" for name in METHODS),
        ),
    ]


def run_recipe(recipe: Path, flags: list[str]) -> None:
    """Run a recipe as `python recipe flags…` would, in this process, where the imports are paid for once."""
    argv, sys.argv = sys.argv, [str(recipe), *flags]
    try:
        runpy.run_path(str(recipe), run_name="__main__")
    except SystemExit as e:
        if e.code:
            raise
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


def collect(root: Path, results: dict[str, StageResult], seed: int) -> dict:
    """The life's numbers, in the form of results.json.

    FLOPs are 2 a parameter and token for a forward pass and 4 for a backward one. A method's minutes, FLOPs and labels
    are what it needs beyond the model that it starts from.
    """
    evaluation, stages = results["evaluation"].metrics, {name: result.metrics for name, result in results.items()}
    parameters = _num_parameters(root / "pretrain")
    pairs = stages["preferences"]["train"]["pairs"]
    minutes = {name: result.minutes for name, result in results.items()}
    tokens = {name: _logged(root / name, "num_tokens") for name in ("sft", "reward", "ppo", "dpo")}
    epochs = 2  # of PPO over each rollout; generation, two scoring passes and the reward model are a forward pass each
    flops = {
        "pretrained": _state(root / "pretrain")["total_flos"],
        "prompted": 0,
        "sft": 6 * parameters * tokens["sft"],
        "ppo": parameters * (6 * tokens["reward"] + (4 * 2 + 6 * epochs) * tokens["ppo"]),
        "dpo": (6 + 2) * parameters * tokens["dpo"],
    }
    spent = {
        "pretrained": minutes["tokenizer"] + minutes["pretrain"],
        "prompted": 0.0,
        "sft": minutes["sft"],
        "ppo": minutes["preferences"] + minutes["reward"] + minutes["ppo"],
        "dpo": minutes["preferences"] + minutes["dpo"],
    }
    demonstrations = round(stages["sft"]["train_samples"]) if "train_samples" in stages["sft"] else None
    labels = {"pretrained": 0, "prompted": NUM_SHOTS, "sft": demonstrations, "ppo": pairs, "dpo": pairs}
    methods = {
        method: {
            "gold_reward": evaluation[method]["gold_reward"],
            "gold_reward_se": evaluation[method]["gold_reward_se"],
            "proxy_reward": evaluation[method]["proxy_reward"],
            "kl_to_sft": evaluation[method]["kl"],
            "accuracy": evaluation[method]["accuracy"],
            "minutes": spent[method],
            "flops": flops[method],
            "human_labels": labels[method],
            "parameters_changed": 0 if method == "prompted" else parameters,
        }
        for method in METHODS
    }
    return {
        "minutes": sum(minutes.values()),
        "seed": seed,
        "reward_model": {
            "accuracy": stages["reward"]["eval_accuracy"],
            "bayes_accuracy": stages["preferences"]["test"]["bayes_accuracy"],
        },
        "methods": methods,
        "differences": [compare(root, before, after) for before, after in COMPARISONS],
        "stage_minutes": minutes,
    }


def compare(root: Path, before: str, after: str) -> dict:
    """Gold reward of `after` minus that of `before` on the same prompts; it holds if above two standard errors."""
    rewards = [[row["gold_reward"] for row in samples(root, method)] for method in (before, after)]
    mean, se = paired_difference(*rewards)
    return {"before": before, "after": after, "mean": mean, "se": se, "holds": mean > 2 * se}


def samples(root: Path, method: str) -> list[dict]:
    """What a method wrote for the held-out prompts."""
    lines = (root / "evaluation" / method / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def log_history(folder: Path) -> list[dict]:
    """What a training stage logged, step by step."""
    return _state(folder)["log_history"]


def _state(folder: Path) -> dict:
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))


def _logged(folder: Path, name: str) -> float:
    return max((log[name] for log in log_history(folder) if name in log), default=0.0)


def _num_parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        shapes = (weights.get_slice(name).get_shape() for name in weights.keys())  # noqa: SIM118
        return sum(torch.Size(shape).numel() for shape in shapes)
