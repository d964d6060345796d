"""Two optimizer steps of our DPO, Reward, SFT and REINFORCE trainers and of TRL's; a line of JSON each.

As a script: `agreement.py output_dir`, once a rank. Completions are given, not sampled.
"""

import json
import sys

import trl
from transformers import LlamaForSequenceClassification

import hfcourse
from hfcourse.tokenization import train_tokenizer
from tests.distributed.preferences import LETTERS, model, pairs, settings

METRICS = (
    *("loss", "grad_norm", "entropy", "accuracy", "margin", "mean_reward", "mean_token_accuracy", "num_tokens"),
    *("rewards/accuracies", "rewards/margins", "rewards/chosen", "logps/chosen", "logps/rejected", "reward", "kl"),
)


def arguments(output_dir: str) -> dict:
    quiet = dict(bf16=False, gradient_checkpointing=False, report_to="none")
    return settings(output_dir, 2) | quiet | dict(max_steps=2, gradient_accumulation_steps=2)


def dpo(library, output_dir: str):
    args = library.DPOConfig(**arguments(output_dir))
    options = dict(train_dataset=pairs(), processing_class=train_tokenizer(["a b"], 260))
    return library.DPOTrainer(model(), model(), args, **options)


def reward(library, output_dir: str):
    tokenizer = train_tokenizer(["a b"], 260)
    args = library.RewardConfig(**arguments(output_dir))
    return library.RewardTrainer(
        model(LlamaForSequenceClassification), args, train_dataset=pairs(), processing_class=tokenizer
    )


def sft(library, output_dir: str):
    args = library.SFTConfig(**arguments(output_dir))
    rows = pairs().rename_column("chosen", "completion").remove_columns("rejected")
    return library.SFTTrainer(model(), args, train_dataset=rows, processing_class=train_tokenizer(["a b"], 260))


def reinforce(library, output_dir: str):
    """Leave-one-out; TRL's RLOO. The reference is the first policy, saved for TRL, which loads it by its name."""
    tokenizer = train_tokenizer(["a b"], 260)
    if library is trl:
        trainer_class, config, options = trl.RLOOTrainer, trl.RLOOConfig, {}
    else:
        trainer_class, config, options = (
            hfcourse.REINFORCETrainer,
            hfcourse.REINFORCEConfig,
            {"baseline": "leave_one_out"},
        )
    args = config(**arguments(output_dir), **options, max_completion_length=8, beta=0.1, num_generations=2)
    prompts = pairs().select_columns("prompt")
    trainer = trainer_class(f"{output_dir}/reference", lengths, args, prompts, processing_class=tokenizer)

    def generate(asked):
        texts = ["xyz" * (1 + (LETTERS.index(p) + i % 2) % 3) for i, p in enumerate(asked)]
        return tokenizer(asked)["input_ids"], tokenizer(texts)["input_ids"], texts

    trainer._generate = generate
    return trainer


def lengths(prompts, completions, **columns):
    return [float(ord(prompt[0]) % 5) + len(text) for prompt, text in zip(prompts, completions, strict=True)]


def learnt(trainer) -> dict:
    """What two steps logged and made of every parameter, which is the gradient: the optimizer is plain SGD."""
    trainer.train()
    logged = [{n: v for n, v in log.items() if n in METRICS} for log in trainer.state.log_history[:2]]
    norms = [p.double().norm().item() for n, p in trainer.model.named_parameters()]
    return {"num_processes": trainer.accelerator.num_processes, "logged": logged, "norms": norms}


if __name__ == "__main__":
    for make in (dpo, reward, sft, reinforce):
        ours, theirs = (learnt(make(library, sys.argv[1])) for library in (hfcourse, trl))
        print(json.dumps({"method": make.__name__, "ours": ours, "theirs": theirs}))
