"""REINFORCE: the plain policy gradient on a reward with a KL penalty (course notes, 2.1 to 2.2.2).

    accelerate launch recipes/reinforce.py --config recipes/configs/reinforce/llama1m_world.yaml
    python recipes/reinforce.py --model_name_or_path my_sft_model --reward_model_path my_reward_model \
        --dataset_name prompts.jsonl --output_dir my_reinforce_model

The dataset has the column `prompt` (text or messages), or the columns of a `--template`. The reward is a reward model
(`--reward_model_path`, a folder or a Hub id), a Python function (`--reward_funcs my_module.my_reward`, called as
`f(prompts, completions, **columns)`), or several of both, weighted by `--reward_weights`. Each rollout serves one
update; `--baseline` none, mean or leave_one_out (with `--num_generations` 2 or more) says what it is measured against.

What to watch: `reward` against `kl_sequence`; a reward that rises for ever while answers get odd is being hacked.
"""

from dataclasses import dataclass, field

from hfcourse.pipeline.launch import (
    ScriptArguments,
    load_causal_lm,
    load_splits,
    load_tokenizer,
    parse,
    recipe,
    train_and_save,
)


@dataclass
class RewardArguments:
    """Where the reward comes from."""

    _argument_group_name = "reward"

    reward_model_path: list[str] | None = field(
        default=None, metadata={"help": "Reward models: folders or Hub ids of sequence classifiers with one label."}
    )
    reward_funcs: list[str] | None = field(
        default=None, metadata={"help": "Reward functions as dotted paths, e.g. hfcourse.world.gold_reward."}
    )


def main():
    from trl import ModelConfig, get_peft_config

    from hfcourse import REINFORCEConfig, REINFORCETrainer
    from hfcourse.data.templates import apply_template
    from hfcourse.trainers.rewards import load_reward_funcs

    script_args, reward_args, training_args, model_args = parse(
        ScriptArguments, RewardArguments, REINFORCEConfig, ModelConfig, description=__doc__
    )
    splits = load_splits(script_args, training_args, required_columns=() if script_args.template else ("prompt",))
    if script_args.template:
        splits = [split and apply_template(split, script_args.template) for split in splits]
    trainer = REINFORCETrainer(
        load_causal_lm(model_args, trust_remote_code=training_args.trust_remote_code),
        load_reward_funcs(reward_args.reward_model_path, reward_args.reward_funcs),
        training_args,
        splits[0],
        eval_dataset=splits[1],
        processing_class=load_tokenizer(model_args.model_name_or_path, model_args.model_revision),
        peft_config=get_peft_config(model_args),
    )
    train_and_save(trainer, training_args, script_args)


if __name__ == "__main__":
    recipe(main)
