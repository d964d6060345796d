"""A life in numbers: what each method came to, what it cost, and which differences are more than chance."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

from hfcourse.evaluation.statistics import paired_difference
from hfcourse.pipeline.files import read_jsonl
from hfcourse.pipeline.life import METHODS, MODEL_OF
from hfcourse.pipeline.stages import StageResult

# What is claimed, and measured on the same held-out prompts: the second is better than the first.
COMPARISONS = (("pretrained", "prompted"), ("prompted", "sft"), ("sft", "ppo"), ("sft", "dpo"))

# What a method needs beyond the model that it starts from.
STAGES_OF = {
    "pretrained": ("tokenizer", "pretrain"),
    "prompted": (),
    "sft": ("sft",),
    "ppo": ("preferences", "reward", "ppo"),
    "dpo": ("preferences", "dpo"),
}
BASE_OF = {"sft": "pretrain", "ppo": "sft", "dpo": "sft"}

FORWARD, TRAINING = 2, 6  # FLOPs a parameter and token: a forward pass; forward and backward (2001.08361)


def collect(root: Path, results: dict[str, StageResult], seed: int, fast: bool) -> dict:
    """The life's numbers, in the form of results.json.

    A method's minutes, FLOPs, labels and parameters are what it needs beyond the model that it starts from: of PPO
    the preferences and the reward model, not the SFT. `gold_reward_se` is a standard error; `differences` are paired.
    """
    metrics = {name: result.metrics for name, result in results.items()}
    minutes = {name: result.minutes for name, result in results.items()}
    flops, labels = flops_of_stages(root, metrics), _human_labels(root, metrics)
    methods = {}
    for method in METHODS:
        measured, stages = metrics["evaluation"][method], STAGES_OF[method]
        methods[method] = {
            **{name: measured[name] for name in ("gold_reward", "gold_reward_se", "proxy_reward", "proxy_reward_se")},
            **{"kl_to_sft": measured["kl"], "kl_to_sft_se": measured["kl_se"]},
            **{name: measured[name] for name in ("accuracy", "accuracy_se", "mean_length")},
            "minutes": sum(minutes[name] for name in stages),
            "flops": sum(flops[name] for name in stages),
            "human_labels": labels[method],
            "parameters_changed": _parameters_changed(root, method),
        }
    return {
        "minutes": sum(minutes.values()),
        "seed": seed,
        "fast": fast,
        "num_prompts": metrics["evaluation"]["sft"]["num_prompts"],
        "reward_model": {
            "accuracy": metrics["reward"]["eval_accuracy"],
            "bayes_accuracy": metrics["preferences"]["test"]["bayes_accuracy"],
            "num_pairs": metrics["preferences"]["test"]["num_pairs"],
        },
        "methods": methods,
        "differences": [compare(root, before, after) for before, after in COMPARISONS],
        "stage_minutes": minutes,
    }


def compare(root: Path, before: str, after: str) -> dict:
    """Gold reward of `after` minus that of `before` on the same prompts; it holds if above two standard errors."""
    rewards = [[row["gold_reward"] for row in samples(root, method)] for method in (before, after)]
    difference = paired_difference(*rewards)
    return {"before": before, "after": after, **difference._asdict(), "holds": difference.is_positive}


def flops_of_stages(root: Path, metrics: dict[str, dict]) -> dict[str, float]:
    """Floating-point operations, at 2 a parameter and token for a forward pass and 6 with the backward pass.

    PPO: each token of a rollout is generated and scored by policy, reference and reward model (4 forward passes), and
    trained on `num_iterations` times. DPO: the policy is trained, the reference scores. Each answer counts with its
    prompt, though a shared one is computed once. Evaluation is left out.
    """
    n = num_parameters(root / "pretrain")
    pretraining, ppo = _training_args(root / "pretrain"), _training_args(root / "ppo")
    steps = _state(root / "pretrain")["global_step"]
    tokens_read = (
        steps * pretraining.train_batch_size * pretraining.gradient_accumulation_steps * pretraining.block_size
    )
    labelled = sum(split["num_tokens"] for split in metrics["preferences"].values())
    return {
        "tokenizer": 0.0,
        "pretrain": TRAINING * n * tokens_read,
        "sft": TRAINING * n * _tokens(root / "sft"),
        "preferences": FORWARD * n * labelled,
        "reward": TRAINING * n * _tokens(root / "reward"),
        "ppo": (4 * FORWARD + ppo.num_iterations * TRAINING) * n * _tokens(root / "ppo"),
        "dpo": (TRAINING + FORWARD) * n * _tokens(root / "dpo"),
    }


def samples(root: Path, method: str) -> list[dict]:
    """What a method wrote for the held-out prompts."""
    return read_jsonl(root / "evaluation" / method / "samples.jsonl")


def log_history(folder: Path) -> list[dict]:
    """What a training stage logged, step by step."""
    return _state(folder)["log_history"]


def num_parameters(folder: Path) -> int:
    """Of the saved weights; a matrix that reads and writes tokens counts once."""
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return sum(torch.Size(weights.get_slice(name).get_shape()).numel() for name in weights.keys())  # noqa: SIM118


def _parameters_changed(root: Path, method: str) -> int:
    """How many numbers differ from the model that the method started from; all, where it started from none."""
    if method == "prompted":
        return 0
    if method == "pretrained":
        return num_parameters(root / "pretrain")
    before, after = root / BASE_OF[method] / "model.safetensors", root / MODEL_OF[method] / "model.safetensors"
    with safe_open(before, "pt") as old, safe_open(after, "pt") as new:
        return sum((old.get_tensor(name) != new.get_tensor(name)).sum().item() for name in new.keys())  # noqa: SIM118


def _human_labels(root: Path, metrics: dict[str, dict]) -> dict[str, int]:
    """Demonstrations written (few-shot pool, SFT) or comparisons made (PPO, DPO)."""
    comparisons = metrics["preferences"]["train"]["num_pairs"]
    sft = metrics["sft"]
    demonstrations = round(sft["train_samples_per_second"] * sft["train_runtime"] / sft["epoch"])
    pool = metrics["evaluation"]["prompted"]["num_shots_pool"]
    return {"pretrained": 0, "prompted": pool, "sft": demonstrations, "ppo": comparisons, "dpo": comparisons}


def _training_args(folder: Path):
    return torch.load(folder / "training_args.bin", weights_only=False)  # our own file, written by this life


def _state(folder: Path) -> dict:
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))


def _tokens(folder: Path) -> float:
    """Tokens that a stage trained on, as its trainer counted them."""
    return max(log["num_tokens"] for log in log_history(folder) if "num_tokens" in log)
