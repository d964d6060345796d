"""One optimizer step of the Reward, DPO, PPO and REINFORCE trainers; prints what each learnt as a line of JSON.

As a script: `preferences.py output_dir batch_size`, once a rank. Completions are given, not sampled.
"""

import json
import sys

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from hfcourse import (
    DPOConfig,
    DPOTrainer,
    PPOConfig,
    PPOTrainer,
    REINFORCEConfig,
    REINFORCETrainer,
    RewardConfig,
    RewardTrainer,
)
from hfcourse.tokenization import train_tokenizer

ROWS = 8
LETTERS = "abcdefgh"
ROLLOUT = dict(max_completion_length=8, beta=0.1)
SHAPE = dict(vocab_size=260, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
METRICS = (
    *("loss", "accuracy", "margin", "mean_reward", "rewards/accuracies", "rewards/margins", "logps/chosen", "entropy"),
    *("reward", "kl", "kl_sequence", "explained_variance", "loss/policy", "loss/value", "clip_ratio/region_mean"),
)


def pairs() -> Dataset:
    """Rows of unequal length."""
    return Dataset.from_list(
        [{"prompt": c, "chosen": " x" * (1 + i % 3), "rejected": " y" + c * i} for i, c in enumerate(LETTERS)]
    )


def settings(output_dir: str, batch_size: int) -> dict:
    return dict(
        output_dir=output_dir,
        use_cpu=True,
        per_device_train_batch_size=batch_size,
        max_steps=1,
        logging_steps=1,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0.0,
        save_strategy="no",
        disable_tqdm=True,
    )


def model(model_class=LlamaForCausalLM):
    torch.manual_seed(0)
    return model_class(LlamaConfig(**SHAPE, num_labels=1, initializer_range=0.3))


def reward_trainer(output_dir: str, batch_size: int):
    args = RewardConfig(**settings(output_dir, batch_size))
    return RewardTrainer(
        model(LlamaForSequenceClassification),
        args,
        train_dataset=pairs(),
        processing_class=train_tokenizer(["a b"], 260),
    )


def dpo_trainer(output_dir: str, batch_size: int):
    args = DPOConfig(**settings(output_dir, batch_size))
    return DPOTrainer(model(), args=args, train_dataset=pairs(), processing_class=train_tokenizer(["a b"], 260))


def ppo_trainer(output_dir: str, batch_size: int):
    return rollout_trainer(PPOTrainer, PPOConfig(**settings(output_dir, batch_size), **ROLLOUT, num_iterations=1))


def reinforce_trainer(output_dir: str, batch_size: int):
    args = REINFORCEConfig(
        **settings(output_dir, batch_size),
        **ROLLOUT,
        baseline="leave_one_out",
        normalize_advantages=True,
        num_generations=2,
    )
    return rollout_trainer(REINFORCETrainer, args)


def rollout_trainer(trainer_class, args):
    tokenizer = train_tokenizer(["a b"], 260)
    reference = model()
    with torch.no_grad():
        reference.lm_head.weight.mul_(1.5)

    def reward(prompts, completions, **columns):
        return [float(ord(prompt[0]) % 5) + len(text) for prompt, text in zip(prompts, completions, strict=True)]

    def generate(prompts):
        texts = ["xyz" * (1 + (LETTERS.index(p) + i % 2) % 3) for i, p in enumerate(prompts)]
        return tokenizer(prompts)["input_ids"], tokenizer(texts)["input_ids"], texts

    prompts = Dataset.from_dict({"prompt": list(LETTERS)})
    trainer = trainer_class(model(), reward, args, prompts, processing_class=tokenizer, ref_model=reference)
    trainer._generate = generate
    return trainer


def train_all(output_dir: str, batch_size: int) -> list[dict]:
    learnt = []
    for make in (reward_trainer, dpo_trainer, ppo_trainer, reinforce_trainer):
        trainer = make(output_dir, batch_size)
        trainer.train()
        logged = {n: v for log in trainer.state.log_history for n, v in log.items() if n in METRICS}
        sums = [p.double().sum().item() for p in trainer.model.parameters()]
        learnt.append({"num_processes": trainer.accelerator.num_processes, "sums": sums, **logged})
    return learnt


if __name__ == "__main__":
    for line in train_all(sys.argv[1], int(sys.argv[2])):
        print(json.dumps(line))
