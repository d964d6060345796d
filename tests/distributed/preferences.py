"""One optimizer step of the Reward, DPO, PPO and REINFORCE trainers; prints what each learnt as a line of JSON.

As a script: `preferences.py output_dir batch_size`, once a rank. Completions are given, not sampled.
"""

import json
import sys

import torch
from datasets import Dataset, concatenate_datasets
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


def precomputed_dpo_trainer(output_dir: str, batch_size: int):
    """Of nine pairs, two twice, so that the processes have unequal shares of what is missing."""
    rows = concatenate_datasets([pairs(), pairs().select([0])])
    args = DPOConfig(**settings(output_dir, batch_size), precompute_ref_log_probs=True)
    tokenizer = train_tokenizer(["a b"], 260)
    trainer = DPOTrainer(model(), args=args, train_dataset=rows, processing_class=tokenizer)
    rewards = [row["ref_chosen_logps"] - row["ref_rejected_logps"] for row in trainer.train_dataset]
    trainer.train_dataset = trainer.train_dataset.select(range(ROWS))
    return trainer, {"ref_logps": rewards}


def streamed_dpo_trainer(output_dir: str, batch_size: int):
    args = DPOConfig(**settings(output_dir, batch_size), precompute_ref_log_probs=True, beta=0.2)
    stream = pairs().to_iterable_dataset()
    tokenizer = train_tokenizer(["a b"], 260)
    return DPOTrainer(model(), args=args, train_dataset=stream, processing_class=tokenizer)


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
    makers = (
        reward_trainer,
        dpo_trainer,
        streamed_dpo_trainer,
        precomputed_dpo_trainer,
        ppo_trainer,
        reinforce_trainer,
    )
    for make in makers:
        made = make(output_dir, batch_size)
        trainer, seen = made if isinstance(made, tuple) else (made, {})
        trainer.train()
        logged = {n: v for log in trainer.state.log_history for n, v in log.items() if n in METRICS}
        sums = [p.double().sum().item() for p in trainer.model.parameters()]
        learnt.append({"num_processes": trainer.accelerator.num_processes, "sums": sums, **logged, **seen})
    return learnt


if __name__ == "__main__":
    for line in train_all(sys.argv[1], int(sys.argv[2])):
        print(json.dumps(line))
