"""Run by test_push_to_hub.py in a process of its own: one PPO update on a local model, pushed."""

import os
import sys

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcourse import PPOConfig, PPOTrainer


def many_letters(completions, **columns):
    return [float(sum(c.isalpha() for c in completion)) for completion in completions]


def main(model_dir: str, output_dir: str, repo_id: str):
    args = PPOConfig(
        output_dir,
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        num_iterations=1,
        max_completion_length=4,
        learning_rate=3e-4,
        logging_steps=1,
        save_strategy="no",
        push_to_hub=True,
        hub_model_id=repo_id,
        hub_token=os.environ.pop("HF_TOKEN"),  # which no pushed file may hold
    )
    prompts = Dataset.from_dict({"prompt": ["The red fox", "Mara lives", "Two apples", "What is"]})
    trainer = PPOTrainer(
        AutoModelForCausalLM.from_pretrained(model_dir),
        many_letters,
        args,
        prompts,
        processing_class=AutoTokenizer.from_pretrained(model_dir),
    )
    trainer.card_dataset = "world/prompts"
    trainer.train()
    trainer.push_to_hub()


main(*sys.argv[1:])
