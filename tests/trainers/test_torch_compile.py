"""Compiled, every trainer learns what it learns without: hooks, second forwards and trials are no constants."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForSequenceClassification

import hfcourse

PAIRS = [
    {"prompt": "Mara", "chosen": " lives in Oakton.", "rejected": " is a door."},
    {"prompt": "The red fox", "chosen": " sleeps.", "rejected": " sleeps near the blue river and the tea."},
    {"prompt": "Two apples", "chosen": " and three make five.", "rejected": " x"},
    {"prompt": "What is the colour?", "chosen": " Blue.", "rejected": " Six, I think."},
]
ROWS = {
    "CausalLM": Dataset.from_list([{"text": pair["prompt"] + pair["rejected"] * 3} for pair in PAIRS]),
    "MaskedLM": Dataset.from_dict({"input_ids": torch.randint(5, 48, (4, 20)).tolist()}),
    "SFT": Dataset.from_list([{"prompt": pair["prompt"], "completion": pair["rejected"]} for pair in PAIRS]),
    "Reward": Dataset.from_list(PAIRS),
    "DPO": Dataset.from_list(PAIRS),
    "PPO": Dataset.from_list(PAIRS).select_columns("prompt"),
}
EXTRA = {"CausalLM": dict(block_size=16), "PPO": dict(num_generations=2, max_completion_length=5)}


def letters(prompts, completions, **columns):
    return [float(len(set(text))) for text in completions]


@pytest.mark.parametrize("method", ROWS)
def test_compiled_it_is_the_same(method, tiny_llama, tiny_bert, tiny_tokenizer, word_piece, tmp_path):
    """Three steps of one row or pair: their lengths differ, and so do the positions that count."""

    def losses(**config):
        torch._dynamo.reset()
        model, tokenizer = tiny_llama(0), tiny_tokenizer
        if method == "MaskedLM":
            model, tokenizer = tiny_bert(0), word_piece
        if method == "Reward":
            torch.manual_seed(0)
            model = LlamaForSequenceClassification(tiny_llama(0, num_labels=1).config)
        settings = dict(max_steps=3, logging_steps=1, learning_rate=1e-2, save_strategy="no", report_to="none")
        settings |= dict(use_cpu=True, bf16=False, disable_tqdm=True, per_device_train_batch_size=1)
        settings |= dict(gradient_checkpointing=False) | EXTRA.get(method, {}) | config
        settings |= dict(per_device_train_batch_size=2) if method == "PPO" else {}
        args = getattr(hfcourse, f"{method}Config")(str(tmp_path), **settings)
        positional = [letters] if method == "PPO" else []
        trainer = getattr(hfcourse, f"{method}Trainer")(
            *(model, *positional), args=args, train_dataset=ROWS[method], processing_class=copy.deepcopy(tokenizer)
        )
        trainer.train()
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    compiled = losses(torch_compile=True, torch_compile_backend="eager")
    assert len(set(compiled)) == 3
    assert compiled == pytest.approx(losses(), abs=1e-5)
