"""What the planner plans: methods, strategies, and the batch of one device."""

from dataclasses import dataclass

METHODS = ("clm", "sft", "rm", "dpo", "ppo")
STRATEGIES = ("none", "lora", "ddp", "zero2", "zero3", "fsdp2")
ACCELERATE_FILES = {
    "none": "single_gpu",
    "lora": "single_gpu",
    "ddp": "multi_gpu",
    "zero2": "zero2",
    "zero3": "zero3",
    "fsdp2": "fsdp2",
}
RECIPES = {"clm": "pretrain_causal_lm", "sft": "sft", "rm": "reward", "dpo": "dpo", "ppo": "ppo"}


@dataclass(frozen=True)
class Batch:
    """What one device sees at once: `size` prompts of `prompt_length` tokens, each with `completion_length` more.

    Of the language model of `clm` both together are the block. A pair of preferences counts as one.

    num_iterations: PPO's epochs over a rollout. rollout_size: completions a rollout on this device; `size` by default.
    """

    size: int
    prompt_length: int
    completion_length: int
    num_iterations: int = 1
    rollout_size: int | None = None

    @property
    def length(self) -> int:
        return self.prompt_length + self.completion_length
