"""TRL's own RLOO and GRPO in PPO's place: the same prompts, rewards and flags (course notes, 2.1).

    accelerate launch recipes/rloo_grpo.py --config recipes/configs/rloo_grpo/llama1m_world.yaml
    python recipes/rloo_grpo.py --method grpo --model_name_or_path my_sft_model --reward_model_path my_reward_model \
        --dataset_name prompts.jsonl --output_dir my_grpo_model

Neither has a critic: an answer is measured by its siblings, `--num_generations` (2 or more) to a prompt. RLOO takes
the mean of the others from its reward; GRPO the mean of all, and divides by their deviation. Data and rewards are
those of recipes/ppo.py; the other flags and their defaults are TRL's: GRPO's beta is 0, so set one.

What to watch: `reward` against `kl`, which is a token's here and not a completion's. `--gold_func` and `--kl_budget`
watch for reward hacking as they do in PPO.
"""

from dataclasses import dataclass, field
from typing import Literal

from hfcourse.pipeline.launch import ScriptArguments, load_causal_lm, load_tokenizer, parse, recipe, train_and_save
from hfcourse.pipeline.rewards import RewardArguments, load_prompts


@dataclass
class MethodArguments:
    """Which of the two."""

    method: Literal["rloo", "grpo"] = field(default="rloo", metadata={"help": "rloo or grpo."})


def main():
    from trl import GRPOTrainer, ModelConfig, RLOOTrainer, get_peft_config

    from hfcourse.trainers.trl_configs import GRPOConfig, RLOOConfig

    of_method = {"rloo": (RLOOConfig, RLOOTrainer), "grpo": (GRPOConfig, GRPOTrainer)}
    (chosen,) = parse(MethodArguments, strict=False)  # decides which further flags there are
    config_class, trainer_class = of_method[chosen.method]
    _, script_args, reward_args, training_args, model_args = parse(
        MethodArguments, ScriptArguments, RewardArguments, config_class, ModelConfig, description=__doc__
    )
    train_dataset, eval_dataset = load_prompts(script_args, training_args)
    model = load_causal_lm(model_args, trust_remote_code=training_args.trust_remote_code)
    tokenizer = load_tokenizer(model_args.model_name_or_path, model_args.model_revision)
    trainer = trainer_class(
        model,
        reward_args.load_functions(model, tokenizer, training_args.device),
        training_args,
        train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    reward_args.watch(trainer)
    train_and_save(trainer, training_args, script_args)


if __name__ == "__main__":
    recipe(main)
