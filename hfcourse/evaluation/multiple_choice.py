"""Accuracy on multiple choice, by the likelihood of each choice."""

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.logprobs import token_logps


@torch.no_grad()
def choice_logps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], choices: list[str], batch_size=64
) -> list[float]:
    """log p(choice | prompt), summed over the tokens of the choice, for each pair of texts."""
    prefixes = tokenizer(prompts)["input_ids"]
    rows = [
        prefix + tokenizer(c, add_special_tokens=False)["input_ids"]
        for prefix, c in zip(prefixes, choices, strict=True)
    ]
    values: list[float] = []
    for start in range(0, len(rows), batch_size):
        batch = [torch.tensor(row) for row in rows[start : start + batch_size]]
        input_ids = pad_sequence(batch, batch_first=True).to(model.device)
        mask = pad_sequence([torch.ones_like(row) for row in batch], batch_first=True).to(model.device)
        labels = input_ids.masked_fill(mask == 0, -100)
        for i, prefix in enumerate(prefixes[start : start + batch_size]):
            labels[i, : len(prefix)] = -100
        logps, _ = token_logps(model(input_ids=input_ids, attention_mask=mask).logits[:, :-1], labels[:, 1:])
        values += logps.sum(1).tolist()
    return values


def multiple_choice_hits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict], batch_size: int = 64
) -> list[float]:
    """1 where the right choice is the likeliest, else 0, for rows of MMLU's columns (question, choices, answer).

    The choice follows "Question: …\\nAnswer:"; log-likelihoods are divided by the choice's length in characters, so
    that a short choice has no start over a long one.
    """
    prompts = [f"Question: {row['question']}\nAnswer:" for row in rows for _ in row["choices"]]
    choices = [f" {choice}" for row in rows for choice in row["choices"]]
    logps = iter(choice_logps(model, tokenizer, prompts, choices, batch_size))
    hits = []
    for row in rows:
        scores = [next(logps) / len(choice) for choice in row["choices"]]
        hits.append(float(scores.index(max(scores)) == row["answer"]))
    return hits
