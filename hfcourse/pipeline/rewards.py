"""What the recipes that learn from a reward share: where it comes from, their prompts, and who watches it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, load_splits

if TYPE_CHECKING:
    import torch
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments


@dataclass
class RewardArguments:
    """Where the reward comes from, and what it is held against."""

    _argument_group_name = "reward"

    reward_model_path: list[str] | None = field(
        default=None,
        metadata={
            "help": "Reward models: folders or Hub ids of sequence classifiers with one label; with --use_peft also "
            "the folder of an adapter on the policy's own base."
        },
    )
    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": "Reward functions as dotted paths, e.g. hfcourse.world.gold_reward."}
    )
    gold_func: str | None = field(
        default=None,
        metadata={
            "help": "What is really meant, as a dotted path: measured on the held-out prompts every --watch_steps "
            "steps beside reward, KL and style of the answers. Needs --eval_strategy; nothing is learnt from it."
        },
    )
    watch_steps: int = field(default=16, metadata={"help": "Optimizer steps between two measurements of gold_func."})
    kl_budget: float | None = field(
        default=None, metadata={"help": "Nats a completion beyond which the watched run stops, or raises beta."}
    )
    on_kl_budget: Literal["stop", "raise_beta"] = field(
        default="stop", metadata={"help": "What happens beyond kl_budget: stop, or raise_beta by half."}
    )

    def __post_init__(self):
        if self.kl_budget is not None and self.gold_func is None:
            raise InputError("kl_budget: is watched together with gold_func; give it too, or set target_kl instead")

    def load(self) -> list[str | Callable]:
        """The rewards, for a trainer's `reward_funcs`. Raises InputError where none is given."""
        from hfcourse.trainers.rewards import load_reward_funcs

        return load_reward_funcs(self.reward_model_path, self.reward_funcs)

    def load_functions(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", device: "torch.device"
    ) -> list[Callable]:
        """[`load`], for trainers of TRL's: reward models as functions that read an answer's EOS, as in training.

        Args:
            model, tokenizer: the policy, which says what ends an answer.
            device: where reward models go.
        """
        from transformers import AutoTokenizer

        from hfcourse.evaluation.generation import eos_ids
        from hfcourse.models.reward_model import load_reward_model
        from hfcourse.trainers.rewards import RewardModelFunction, checked

        def as_function(reward: str | Callable) -> Callable:
            if not isinstance(reward, str):
                return checked(reward)
            reward_model = load_reward_model(reward).to(device)
            return RewardModelFunction(reward_model, AutoTokenizer.from_pretrained(reward), eos_ids(model, tokenizer))

        return [as_function(reward) for reward in self.load()]

    def watch(self, trainer: "Trainer") -> None:
        """Add the callback that measures `gold_func`, if one is given."""
        if self.gold_func is None:
            return
        from hfcourse.callbacks import OveroptimizationCallback
        from hfcourse.trainers.rewards import load_reward_funcs

        if trainer.eval_dataset is None:
            raise InputError("gold_func: is measured on held-out prompts; set eval_strategy and name their split")
        (gold,) = load_reward_funcs(None, [self.gold_func])
        options = {"every": self.watch_steps, "kl_budget": self.kl_budget, "on_budget": self.on_kl_budget}
        trainer.add_callback(OveroptimizationCallback(trainer, list(trainer.eval_dataset), gold, **options))


def load_prompts(
    script_args: ScriptArguments, training_args: "TrainingArguments"
) -> tuple["Dataset | IterableDataset", "Dataset | IterableDataset | None"]:
    """(train, eval) with the column `prompt`, written by `--template` where one is named."""
    from hfcourse.data.templates import apply_template

    splits = load_splits(script_args, training_args, required_columns=() if script_args.template else ("prompt",))
    if script_args.template:
        splits = tuple(split and apply_template(split, script_args.template) for split in splits)
    return splits
