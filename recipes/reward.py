"""Train a reward model on comparisons (Bradley-Terry, course notes 2.4).

    accelerate launch recipes/reward.py --config recipes/configs/reward/llama1m_world.yaml
    python recipes/reward.py --model_name_or_path my_sft_model --dataset_name pairs.jsonl --output_dir my_reward_model

The dataset has the columns `chosen` and `rejected`, with or without `prompt`, as text or as messages, and may have a
`margin`; `--template hh_rlhf` makes them of Anthropic's pairs. The model is a causal LM (its head is replaced by one
number, the reward) or a reward model to go on with.
With `--use_peft` only an adapter and the reward's head are trained, and both are merged when the run ends.

`--num_heads 4` trains an ensemble: heads on one trunk, each with its own sample of the pairs. What reads a reward
model takes the mean of its heads, less its mean over the training answers, which is saved with it.

What to watch: `accuracy` on held-out pairs, against how often the people who labelled them agree.
"""

from hfcourse.pipeline.launch import ScriptArguments, load_splits, load_tokenizer, parse, recipe, train_and_save


def main():
    from transformers import set_seed
    from trl import ModelConfig, get_peft_config

    from hfcourse import RewardConfig, RewardTrainer
    from hfcourse.data.templates import apply_template
    from hfcourse.models.reward_model import load_reward_model, merge_adapter

    script_args, training_args, model_args = parse(ScriptArguments, RewardConfig, ModelConfig, description=__doc__)
    splits = load_splits(script_args, training_args, required_columns=("chosen", "rejected"))
    if script_args.template:
        splits = [split and apply_template(split, script_args.template) for split in splits]
    model_args.lora_task_type = "SEQ_CLS"
    if model_args.use_peft and not model_args.lora_modules_to_save:
        model_args.lora_modules_to_save = ["score"]  # the reward's head is new: it must be trained and saved
    set_seed(training_args.seed)  # the reward's head is new: its weights are drawn when the model is loaded
    trainer = RewardTrainer(
        load_reward_model(
            model_args.model_name_or_path,
            model_args.dtype,
            model_args.attn_implementation,
            training_args.num_heads if training_args.num_heads > 1 else None,
        ),
        training_args,
        train_dataset=splits[0],
        eval_dataset=splits[1],
        processing_class=load_tokenizer(model_args.model_name_or_path, model_args.model_revision),
        peft_config=get_peft_config(model_args),
    )
    train_and_save(trainer, training_args, script_args)
    merge_adapter(trainer)


if __name__ == "__main__":
    recipe(main)
