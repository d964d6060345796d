"""Completions of many prompts."""

from typing import NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed


class Completion(NamedTuple):
    """What a model wrote: token ids (EOS included, if it came), text without special tokens, and whether EOS came."""

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finished: bool


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list,
    max_new_tokens: int = 32,
    temperature: float = 1.0,
    batch_size: int = 64,
    seed: int = 0,
    stop: str | None = None,
) -> list[Completion]:
    """One completion of each prompt, in the order of the prompts.

    Args:
        prompts: texts, or conversations (lists of messages) for the tokenizer's chat template.
        temperature: 0 is greedy; else tokens are sampled from softmax(logits / temperature), nothing cut.
        batch_size: prompts at once; those of like length go together.
        seed: of the sampling.
        stop: text that ends a completion as EOS does, e.g. the blank line between few-shot examples.
    """
    ids = _tokenize(tokenizer, prompts)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=_eos_ids(model, tokenizer),
        pad_token_id=_pad_id(tokenizer),
        stop_strings=[stop] if stop else None,
        **sampling,
    )
    set_seed(seed)
    model.eval()
    completions: list[Completion | None] = [None] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        inputs = _left_pad([ids[i] for i in rows], config.pad_token_id, model.device)
        output = model.generate(**inputs, generation_config=config, tokenizer=tokenizer if stop else None)
        written = output[:, inputs["input_ids"].shape[1] :].tolist()
        for i, row in zip(rows, written, strict=True):
            completions[i] = _read(tokenizer, ids[i], row, config.eos_token_id, stop)
    return completions


def _tokenize(tokenizer: PreTrainedTokenizerBase, prompts: list) -> list[list[int]]:
    if prompts and isinstance(prompts[0], list):
        return tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tokenizer(prompts)["input_ids"] if prompts else []


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    declared = model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return sorted({i for i in (*declared, tokenizer.eos_token_id) if i is not None})


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def _left_pad(rows: list[list[int]], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    input_ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": input_ids, "attention_mask": mask}


def _read(tokenizer, prompt_ids: list[int], row: list[int], eos_ids: list[int], stop: str | None) -> Completion:
    end = next((t for t, token in enumerate(row) if token in eos_ids), None)
    ids = row if end is None else row[: end + 1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    stopped = stop is not None and stop in text
    return Completion(prompt_ids, ids, text.partition(stop)[0] if stopped else text, end is not None or stopped)
