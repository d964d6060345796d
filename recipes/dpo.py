"""Preferences without a reward model: direct preference optimization (course notes 2.5 and 2.6).

    accelerate launch recipes/dpo.py --config recipes/configs/dpo/llama3m_world.yaml
    python recipes/dpo.py --model_name_or_path my_sft_model --dataset_name pairs.jsonl --output_dir my_dpo_model

The dataset has the columns `prompt`, `chosen` and `rejected`, as text or as messages. The reference is the model as it
was; with `--use_peft` it is the model without its adapter and costs no memory.

What to watch: `rewards/accuracies` and `rewards/margins` on held-out pairs; `logps/chosen`, which may fall, but not far.
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

    script_args, training_args, model_args = parse(ScriptArguments, DPOConfig, ModelConfig, description=__doc__)
    columns = ("prompt", "chosen", "rejected")
    train_dataset, eval_dataset = load_splits(script_args, training_args, required_columns=columns)
    trainer = DPOTrainer(
        load_causal_lm(model_args, trust_remote_code=training_args.trust_remote_code),
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=load_tokenizer(model_args.model_name_or_path, model_args.model_revision),
        peft_config=get_peft_config(model_args),
    )
    train_and_save(trainer, training_args)


if __name__ == "__main__":
    recipe(main)
