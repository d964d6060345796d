"""Plan a training before it costs anything: size, tokens and days of a budget; memory a device; the launch line.

    python recipes/plan.py --flops 1e21
    python recipes/plan.py --gpus 8xH100 --days 3
    python recipes/plan.py --model_name_or_path my_model --method ppo --strategy fsdp2 --gpus 4xA100

A budget (--flops, or --gpus with --days) gives the compute-optimal model by --law_json, the law.json of
`recipes/scaling_laws.py`, or else by Chinchilla's law as replicated, and plans its pretraining. A model gives the
memory of --method under each strategy, or under --strategy alone.

What to watch: `fits`, whether the peak is within 92 % of a device's memory. float32 formulas are measured against real
trainings (benchmarks/planner.py: FLOPs and memory of five models and three methods); those of bf16 and of several
devices are the frameworks' own accounting, not measured here.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import parse, recipe


@dataclass
class PlanArguments:
    flops: float | None = field(default=None, metadata={"help": "Budget in FLOPs."})
    gpus: str = field(default="8xH100", metadata={"help": "Devices, e.g. 8xH100."})
    days: float | None = field(default=None, metadata={"help": "Budget in days of --gpus."})
    mfu: float = field(default=0.4, metadata={"help": "Share of the peak that the model's arithmetic gets."})
    law_json: str | None = field(default=None, metadata={"help": "law.json of recipes/scaling_laws.py."})
    vocab_size: int = field(default=32_000, metadata={"help": "Of the model that a budget gives."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder: plan this model."})
    method: str = field(default="clm", metadata={"help": "Method.", "choices": ["clm", "sft", "rm", "dpo", "ppo"]})
    strategy: str | None = field(
        default=None, metadata={"help": "none, lora, ddp, zero2, zero3 or fsdp2. Unset: all."}
    )
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Sequences, pairs or prompts a device."})
    prompt_length: int = field(default=1024, metadata={"help": "Tokens; with completion_length a block of clm."})
    completion_length: int = field(default=1024, metadata={"help": "Tokens that are scored or written."})
    num_iterations: int = field(default=4, metadata={"help": "PPO's epochs over a rollout."})
    bf16: bool = field(default=True, metadata={"help": "bf16 mixed precision; else float32."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute activations."})
    lora_r: int = field(default=16, metadata={"help": "Rank of LoRA's adapters."})
    output_json: str | None = field(default=None, metadata={"help": "Write the plan there, too."})


def main():
    (args,) = parse(PlanArguments, description=__doc__)

    from hfcourse.pipeline.files import write_json
    from hfcourse.pipeline.plan_report import describe_plan, load_law, load_shape, strategies_of
    from hfcourse.scaling.methods import Batch
    from hfcourse.scaling.planner import budget_of, parse_devices, plan_budget, plan_strategies

    num_devices, device = parse_devices(args.gpus)
    if sum(x is not None for x in (args.flops, args.days, args.model_name_or_path)) != 1:
        raise InputError("flops, days, model_name_or_path: give one of them, a budget or a model")
    if not 0 < args.mfu <= 1:
        raise InputError(f"mfu: {args.mfu} is no share between 0 and 1")
    if args.model_name_or_path is None:
        flops = budget_of(num_devices, device, args.days, args.mfu) if args.flops is None else args.flops
        budget = plan_budget(flops, num_devices, device, args.mfu, load_law(args.law_json), args.vocab_size)
        shape = budget.shape
    else:
        budget, shape = None, load_shape(args.model_name_or_path)
    batch = Batch(args.per_device_train_batch_size, args.prompt_length, args.completion_length, args.num_iterations)
    plans = plan_strategies(
        shape,
        args.method,
        batch,
        num_devices,
        device,
        args.bf16,
        args.gradient_checkpointing,
        args.lora_r,
        strategies_of(args.strategy),
        args.model_name_or_path,
    )
    numbers, text = describe_plan(budget, shape, args.method, batch, plans, num_devices, device, args.mfu)
    print(text)
    if args.output_json is not None:
        write_json(Path(args.output_json), json.loads(json.dumps(numbers)))


if __name__ == "__main__":
    recipe(main)
