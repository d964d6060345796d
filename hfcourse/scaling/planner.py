"""From a budget to a run: size, tokens, shape, days; what fits on a device, and the line that starts it."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from hfcourse.errors import InputError
from hfcourse.scaling.laws import ScalingLaw
from hfcourse.scaling.memory import BFLOAT16, FLOAT32, Memory, fits, training_memory
from hfcourse.scaling.methods import ACCELERATE_FILES, RECIPES, STRATEGIES, Batch
from hfcourse.scaling.shapes import ModelShape, shape_for

# Chinchilla's approach 3, replicated: https://huggingface.co/papers/2404.10102
CHINCHILLA = ScalingLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
SECONDS_A_DAY = 86_400
GB = 1e9


@dataclass(frozen=True)
class Device:
    """An accelerator by its maker's numbers: bytes of memory, and dense bf16 FLOPs a second (V100: fp16)."""

    name: str
    memory: float
    flops: float


DEVICES = {
    device.name.lower(): device
    for device in (
        Device("V100", 32e9, 125e12),
        Device("A100", 80e9, 312e12),
        Device("A100-40", 40e9, 312e12),
        Device("L4", 24e9, 121e12),
        Device("L40S", 48e9, 362e12),
        Device("RTX4090", 24e9, 165e12),
        Device("H100", 80e9, 989e12),
        Device("H200", 141e9, 989e12),
        Device("B200", 180e9, 2250e12),
        Device("MI300X", 192e9, 1307e12),
    )
}


@dataclass(frozen=True)
class BudgetPlan:
    """The compute-optimal run of a budget. `loss` is the law's, on the text that the law was fitted on."""

    flops: float
    num_params: float
    num_tokens: float
    loss: float
    shape: ModelShape
    days: float


@dataclass(frozen=True)
class StrategyPlan:
    """One way to hold a training on the devices. `per_device`: bytes; `command`: what to type."""

    strategy: str
    memory: Memory
    fits: bool
    command: str


def parse_devices(text: str) -> tuple[int, Device]:
    """ "8xH100" -> (8, the H100). Raises InputError for a device that is not known."""
    match = re.fullmatch(r"(?:(\d+)\s*[x×*]\s*)?([\w-]+)", text.strip(), re.IGNORECASE)
    device = match and DEVICES.get(match[2].lower())
    if not device or match[1] == "0":
        raise InputError(f"gpus: '{text}' is no 8xH100; the devices are {', '.join(d.name for d in DEVICES.values())}")
    return int(match[1] or 1), device


def budget_of(num_devices: int, device: Device, days: float, mfu: float) -> float:
    """FLOPs that devices give in so many days at a model-FLOPs utilisation (`mfu`, the share of the peak)."""
    return num_devices * device.flops * mfu * days * SECONDS_A_DAY


def plan_budget(
    flops: float,
    num_devices: int,
    device: Device,
    mfu: float,
    law: ScalingLaw = CHINCHILLA,
    vocab_size: int = 32_000,
) -> BudgetPlan:
    """N* and D* of a budget, a shape of about that size, and how long the devices take."""
    num_params, num_tokens = (float(x) for x in law.compute_optimal(flops))
    days = flops / budget_of(num_devices, device, 1, mfu)
    shape = shape_for(num_params, vocab_size)
    return BudgetPlan(flops, num_params, num_tokens, float(law.loss(num_params, num_tokens)), shape, days)


def lora_params(shape: ModelShape, rank: int) -> int:
    """Adapters on every matrix of every layer: r (in + out) each."""
    d, q, kv, f = shape.hidden_size, shape.query_size, shape.kv_size, shape.intermediate_size
    attention = (d + q) + 2 * (d + kv) + (q + d)
    return shape.num_layers * rank * (attention + (3 if shape.is_gated else 2) * (d + f))


def plan_strategies(
    shape: ModelShape,
    method: str,
    batch: Batch,
    num_devices: int,
    device: Device,
    is_bf16: bool = True,
    gradient_checkpointing: bool = False,
    lora_rank: int = 16,
    strategies: Sequence[str] = STRATEGIES,
    model_name_or_path: str | None = None,
) -> list[StrategyPlan]:
    """What each strategy needs of a device, whether that fits, and how it is launched.

    Args:
        model_name_or_path: what the launch line names; where it is None, a new model of `shape` for `clm`.
    """
    model: list[str] = []
    if model_name_or_path is not None:
        model = [f"--model_name_or_path {shlex.quote(model_name_or_path)}"]
    elif method == "clm":
        model = _shape_flags(shape)
    plans = []
    for strategy in strategies:
        memory = training_memory(
            shape,
            method,
            strategy,
            batch,
            num_devices=num_devices,
            precision=BFLOAT16 if is_bf16 else FLOAT32,
            gradient_checkpointing=gradient_checkpointing,
            lora_params=lora_params(shape, lora_rank) if strategy == "lora" else 0,
        )
        command = launch_line(method, strategy, num_devices, gradient_checkpointing, batch, lora_rank, is_bf16, model)
        plans.append(StrategyPlan(strategy, memory, fits(memory, device.memory), command))
    return plans


def recommend(plans: list[StrategyPlan], num_devices: int) -> StrategyPlan | None:
    """The simplest full finetuning that fits, then LoRA, or None. One device has nothing to part."""
    order = ("none", "lora") if num_devices == 1 else ("ddp", "zero2", "fsdp2", "zero3", "lora")
    return next((plan for name in order for plan in plans if plan.strategy == name and plan.fits), None)


def launch_line(
    method: str,
    strategy: str,
    num_devices: int,
    gradient_checkpointing: bool,
    batch: Batch,
    lora_rank: int = 16,
    is_bf16: bool = True,
    model: Sequence[str] = (),
) -> str:
    """The command of the recipe under this strategy, with every flag that the memory was planned for.

    `--config`, with the data, is yours to add. Flags on the command line win over it.
    """
    file = ACCELERATE_FILES[strategy]
    if strategy == "lora" and num_devices > 1:
        file = "multi_gpu"
    words = ["accelerate launch", f"--config_file accelerate_configs/{file}.yaml"]
    if file != "single_gpu":
        words.append(f"--num_processes {num_devices}")
    words += [f"recipes/{RECIPES[method]}.py", *model, f"--per_device_train_batch_size {batch.size}"]
    words += [
        {
            "clm": f"--block_size {batch.length}",
            "ppo": f"--max_completion_length {batch.completion_length} --num_iterations {batch.num_iterations}",
        }.get(method, f"--max_length {batch.length}")
    ]
    words.append(f"--bf16 {str(is_bf16).lower()} --gradient_checkpointing {str(gradient_checkpointing).lower()}")
    if strategy == "lora":
        words.append(f"--use_peft true --lora_r {lora_rank} --lora_target_modules all-linear")
    return " ".join(words)


def _shape_flags(shape: ModelShape) -> list[str]:
    """What makes `recipes/pretrain_causal_lm.py` build a model of this shape; its tokenizer gives the vocabulary."""
    flags = {
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "tie_word_embeddings": str(shape.is_tied).lower(),
    }
    return [f"--{name} {value}" for name, value in flags.items()]
