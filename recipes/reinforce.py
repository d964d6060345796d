"""REINFORCE: the plain policy gradient on a reward with a KL penalty (course notes, 2.1 to 2.2.2).

    accelerate launch recipes/reinforce.py --config recipes/configs/reinforce/llama1m_world.yaml
    python recipes/reinforce.py --model_name_or_path my_sft_model --reward_model_path my_reward_model \
        --dataset_name prompts.jsonl --output_dir my_reinforce_model

The dataset has the column `prompt` (text or messages), or the columns of a `--template`. The reward is a reward model
(`--reward_model_path`, a folder or a Hub id), a Python function (`--reward_funcs my_module.my_reward`, called as
`f(prompts, completions, **columns)`), or several of both, weighted by `--reward_weights`. Each rollout serves one
update; `--baseline` none, mean or leave_one_out (with `--num_generations` 2 or more) says what it is measured against.

What to watch: `reward` against `kl_sequence` (hfcourse/trainers/METRICS.md has them all). A reward that rises for
ever while answers get odd is being hacked: `--gold_func my_module.truth` measures on held-out prompts what is really
meant and warns where it turns; `--kl_budget` stops the run. TRL's own RLOO and GRPO take the same data and rewards:
recipes/rloo_grpo.py.
"""

from hfcourse.pipeline.launch import ScriptArguments, load_causal_lm, load_tokenizer, parse, recipe, train_and_save
from hfcourse.pipeline.rewards import RewardArguments, load_prompts


def main():
    from trl import ModelConfig, get_peft_config

    from hfcourse import REINFORCEConfig, REINFORCETrainer

    script_args, reward_args, training_args, model_args = parse(
        ScriptArguments, RewardArguments, REINFORCEConfig, ModelConfig, description=__doc__
    )
    train_dataset, eval_dataset = load_prompts(script_args, training_args)
    trainer = REINFORCETrainer(
        load_causal_lm(model_args, trust_remote_code=training_args.trust_remote_code),
        reward_args.load(),
        training_args,
        train_dataset,
        eval_dataset=eval_dataset,
        processing_class=load_tokenizer(model_args.model_name_or_path, model_args.model_revision),
        peft_config=get_peft_config(model_args),
    )
    reward_args.watch(trainer)
    train_and_save(trainer, training_args, script_args)


if __name__ == "__main__":
    recipe(main)
