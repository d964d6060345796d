"""Preferences without a reward model: direct preference optimization (course notes 2.5 and 2.6).

    accelerate launch recipes/dpo.py --config recipes/configs/dpo/llama1m_world.yaml
    python recipes/dpo.py --model_name_or_path my_sft_model --dataset_name pairs.jsonl --output_dir my_dpo_model

The dataset has the columns `prompt`, `chosen` and `rejected`, as text or as messages; `--template hh_rlhf` makes
them of Anthropic's pairs. The reference is the model as it was; with `--use_peft` it is the model without its adapter
and costs no memory.

What to watch: `rewards/accuracies` and `rewards/margins` on held-out pairs; `logps/chosen`, which may fall, not far.
"""

from hfcourse.pipeline.launch import (
    ScriptArguments,
    load_causal_lm,
    load_splits,
    load_tokenizer,
    parse,
    recipe,
    train_and_save,
)


def main():
    from trl import ModelConfig, get_peft_config

    from hfcourse import DPOConfig, DPOTrainer
    from hfcourse.data.templates import apply_template

    script_args, training_args, model_args = parse(ScriptArguments, DPOConfig, ModelConfig, description=__doc__)
    columns = ("chosen", "rejected") if script_args.template else ("prompt", "chosen", "rejected")
    splits = load_splits(script_args, training_args, required_columns=columns)
    if script_args.template:
        splits = [split and apply_template(split, script_args.template) for split in splits]
    trainer = DPOTrainer(
        load_causal_lm(model_args, trust_remote_code=training_args.trust_remote_code),
        args=training_args,
        train_dataset=splits[0],
        eval_dataset=splits[1],
        processing_class=load_tokenizer(model_args.model_name_or_path, model_args.model_revision),
        peft_config=get_peft_config(model_args),
    )
    train_and_save(trainer, training_args, script_args)


if __name__ == "__main__":
    recipe(main)
