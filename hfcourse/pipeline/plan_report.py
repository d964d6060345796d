"""A plan as numbers and as a page of text."""

import json
from dataclasses import asdict
from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.scaling import ScalingLaw
from hfcourse.scaling.flops import method_flops
from hfcourse.scaling.memory import BFLOAT16, kv_cache_bytes
from hfcourse.scaling.methods import STRATEGIES, Batch
from hfcourse.scaling.planner import CHINCHILLA, GB, BudgetPlan, Device, StrategyPlan, recommend
from hfcourse.scaling.shapes import ModelShape, shape_of_config

PARTS = ("weights", "gradients", "optimizer", "reference", "activations", "logits", "kv_cache", "gathered")


def load_law(path: str | None) -> ScalingLaw:
    """The law of a law.json, or Chinchilla's. Raises InputError for a file that holds none."""
    if path is None:
        return CHINCHILLA
    try:
        return ScalingLaw(**json.loads(Path(path).read_text(encoding="utf-8"))["law"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"law_json: '{path}' is no law.json of recipes/scaling_laws.py: {e}") from e


def load_shape(model_name_or_path: str) -> ModelShape:
    """The shape of a Hub id or folder; only its config is read."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model_name_or_path)
    except (OSError, ValueError) as e:
        raise InputError(f"model_name_or_path: no config in '{model_name_or_path}': {str(e).splitlines()[0]}") from e
    return shape_of_config(config)


def strategies_of(name: str | None) -> tuple[str, ...]:
    if name is not None and name not in STRATEGIES:
        raise InputError(f"strategy: '{name}' is none of {', '.join(STRATEGIES)}")
    return STRATEGIES if name is None else (name,)


def describe_plan(
    budget: BudgetPlan | None,
    shape: ModelShape,
    method: str,
    batch: Batch,
    plans: list[StrategyPlan],
    num_devices: int,
    device: Device,
    mfu: float,
) -> tuple[dict, str]:
    """(JSON, text) of a plan."""
    flops, unit = method_flops(shape, method, batch), "one rollout" if method == "ppo" else "one step"
    seconds = flops / (device.flops * mfu)
    chosen = recommend(plans, num_devices)
    numbers = {
        "budget": asdict(budget) if budget else None,
        "shape": asdict(shape),
        "method": method,
        "flops_a_step": flops,
        "seconds_a_step": seconds,
        "strategies": {
            plan.strategy: {
                **asdict(plan.memory),
                "peak": plan.memory.peak,
                "fits": plan.fits,
                "command": plan.command,
            }
            for plan in plans
        },
        "recommended": chosen.strategy if chosen else None,
    }
    lines = _budget_lines(budget, num_devices, device, mfu) if budget else []
    lines += [
        f"model         {_count(shape.num_params)} parameters: {shape.num_layers} layers × {shape.hidden_size}, "
        f"{shape.num_heads} heads ({shape.num_kv_heads} of keys) × {shape.head_dim}, MLP {shape.intermediate_size}, "
        f"{shape.vocab_size} tokens",
        f"{unit:<13} {method}: {flops:.3g} FLOPs a device, {seconds:.3g} s at "
        f"an MFU of {mfu:.0%}; KV cache {kv_cache_bytes(shape, 1, 1, BFLOAT16) / 1e3:.3g} kB a token in bf16",
        "",
        f"GB a device   {'  '.join(f'{part:>11}' for part in PARTS)}         peak   fits {device.memory / GB:.0f} GB",
    ]
    for plan in plans:
        parts = "  ".join(f"{getattr(plan.memory, part) / GB:>11.2f}" for part in PARTS)
        lines.append(f"{plan.strategy:<12}  {parts}  {plan.memory.peak / GB:>11.2f}   {'yes' if plan.fits else 'no'}")
    if method == "ppo":
        own = f"{BFLOAT16 * shape.num_params / GB:.2f} GB in bf16 if it is as large as the policy"
        lines.append(f"not counted: a reward model of its own, {own}; functions and reward adapters need nothing")
    lines += ["", *(_advice(chosen, plans))]
    return numbers, "\n".join(lines)


def _budget_lines(budget: BudgetPlan, num_devices: int, device: Device, mfu: float) -> list[str]:
    devices = f"{num_devices} × {device.name}"
    return [
        f"budget        {budget.flops:.3g} FLOPs = {budget.days:.3g} days of {devices} at an MFU of {mfu:.0%}",
        f"optimal       N* = {_count(budget.num_params)} parameters, D* = {_count(budget.num_tokens)} tokens "
        f"({budget.num_tokens / budget.num_params:.0f} a parameter), loss {budget.loss:.3f}",
    ]


def _advice(chosen: StrategyPlan | None, plans: list[StrategyPlan]) -> list[str]:
    if len(plans) == 1:
        return [plans[0].command]
    if chosen is None:
        return ["nothing fits: take a smaller batch, gradient checkpointing or more devices"]
    return [f"take {chosen.strategy}:", chosen.command]


def _count(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.3g}"
