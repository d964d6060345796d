"""One optimizer step of CausalLMTrainer and of SFTTrainer; prints what each learnt as a line of JSON.

As a script: `language_models.py output_dir batch_size`, once a rank.
"""

import json
import sys

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from hfcourse import CausalLMConfig, CausalLMTrainer, SFTConfig, SFTTrainer
from hfcourse.tokenization import train_tokenizer

ROWS = 8


def rows() -> Dataset:
    """Every row weighs differently: its first i tokens are not learnt."""
    ids = torch.randint(4, 64, (ROWS, 12), generator=torch.Generator().manual_seed(1)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": [[-100] * i + row[i:] for i, row in enumerate(ids)]})


def train(
    trainer_class, config_class, output_dir: str, batch_size: int, evaluates_first: bool = False, bf16: bool = False
) -> dict:
    torch.manual_seed(0)
    shape = dict(vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    args = config_class(
        output_dir,
        use_cpu=True,
        bf16=bf16,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=3,  # 7 rows: the last batches are filled up, and the filling must not count
        max_steps=1,
        logging_steps=1,
        optim="sgd",
        learning_rate=0.5,
        max_grad_norm=0.0,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = trainer_class(
        LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.2)),
        args,
        train_dataset=rows(),
        eval_dataset=rows().select(range(7)),
        processing_class=train_tokenizer(["a b"], 260),
    )
    if evaluates_first:
        trainer.evaluate()
    trainer.train()
    eval_loss = trainer.evaluate()["eval_loss"]
    logged = next(log for log in trainer.state.log_history if "loss" in log)
    return {
        "num_processes": trainer.accelerator.num_processes,
        "eval_loss": eval_loss,
        "sums": [p.sum().item() for p in trainer.model.parameters()],
        **{name: value for name, value in logged.items() if name in ("loss", "entropy", "mean_token_accuracy")},
    }


def train_all(output_dir: str, batch_size: int) -> list[dict]:
    return [
        train(CausalLMTrainer, CausalLMConfig, output_dir, batch_size),
        train(SFTTrainer, SFTConfig, output_dir, batch_size),
        train(SFTTrainer, SFTConfig, output_dir, batch_size, evaluates_first=True),
        train(SFTTrainer, SFTConfig, output_dir, batch_size, evaluates_first=True, bf16=True),
    ]


if __name__ == "__main__":
    for learnt in train_all(sys.argv[1], int(sys.argv[2])):
        print(json.dumps(learnt))
    torch.distributed.destroy_process_group()
