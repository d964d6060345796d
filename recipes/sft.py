"""Instruction tuning: supervised finetuning on prompts and the answers that people wrote to them.

    accelerate launch recipes/sft.py --config recipes/configs/sft/llama1m_world.yaml
    python recipes/sft.py --model_name_or_path my_model --dataset_name answers.jsonl --template alpaca \\
        --output_dir my_sft_model

With --template, rows of instruction, context, question and output become `prompt` and `completion`; without, the
dataset has those two columns, or `messages`. With --chat_template_path chatml (llama3, plain_chat, four_part_en, …)
rows become chats, of which only the assistant's turns and their end tokens are learnt. `datasets:` in the config mixes
several datasets by size, cap and temperature. Only the completion is learnt, and the EOS that ends it. A row of which
--max_length leaves nothing to learn stops the run before its first step. With --use_peft only an adapter is trained.

What to watch: `eval_loss` on held-out answers, and `eval_mean_token_accuracy`, how often the next token is right.
"""

from hfcourse.pipeline.benchmarks import EvalTasksArguments, add_eval_tasks
from hfcourse.pipeline.instruction_data import MixtureArguments, load_instructions
from hfcourse.pipeline.launch import (
    ScriptArguments,
    load_causal_lm,
    load_tokenizer,
    parse,
    recipe,
    train_and_save,
)


def main():
    from trl import ModelConfig, get_peft_config

    from hfcourse import SFTConfig, SFTTrainer

    script_args, training_args, model_args, mixture, benchmarks = parse(
        ScriptArguments, SFTConfig, ModelConfig, MixtureArguments, EvalTasksArguments, description=__doc__
    )
    tokenizer = load_tokenizer(model_args.model_name_or_path, model_args.model_revision)
    splits = load_instructions(script_args, mixture, training_args, tokenizer)
    trainer = SFTTrainer(
        load_causal_lm(model_args, trust_remote_code=training_args.trust_remote_code),
        training_args,
        train_dataset=splits[0],
        eval_dataset=splits[1],
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    add_eval_tasks(trainer, benchmarks)
    train_and_save(trainer, training_args, script_args)


if __name__ == "__main__":
    recipe(main)
