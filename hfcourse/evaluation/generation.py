"""Completions of many prompts: batched, rows of like length together, padded on the left, seeded."""

from typing import NamedTuple

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError


class Completion(NamedTuple):
    """What a model wrote.

    prompt_ids: the tokens that it read, without padding.
    ids: the tokens that it chose, with the EOS or the stop string that ended them.
    text: what they say, without EOS and stop string.
    finished: whether it ended by itself, not at the limit.
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finished: bool


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
    """One completion of each prompt, in the order of the prompts, by a decoder or an encoder-decoder.

    Args:
        prompts: texts, or conversations (lists of messages) for the tokenizer's chat template.
        temperature: tokens are sampled from softmax(logits / temperature), nothing cut; 0 takes the likeliest.
        batch_size: prompts at once; those of like length go together.
        seed: of the sampling. The global random state is left as it was.
        stop: text that ends a completion as EOS does, e.g. the blank line between few-shot examples.

    Raises:
        InputError: a prompt without tokens, or one that leaves no room for its completion in the model's context.
    """
    ids, is_seq2seq = tokenize_prompts(tokenizer, prompts), model.config.is_encoder_decoder
    if is_seq2seq:  # an encoder's input ends with EOS, as in training
        ids = [row if row and row[-1] == tokenizer.eos_token_id else [*row, tokenizer.eos_token_id] for row in ids]
    _check_lengths(ids, max_new_tokens, model)
    config = _generation_config(model, tokenizer, max_new_tokens, temperature, stop)
    completions: list[Completion | None] = [None] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # longest first: memory runs out at once or never
    was_training = model.training
    model.eval()
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = _left_pad([ids[i] for i in rows], config.pad_token_id, model.device)
            output = model.generate(**inputs, generation_config=config, tokenizer=tokenizer if stop else None)
            begun = 1 if is_seq2seq else inputs["input_ids"].shape[1]  # a decoder's start token, or the prompt
            written = output[:, begun:].tolist()
            for i, row in zip(rows, written, strict=True):
                completions[i] = _read(tokenizer, ids[i], row, config.eos_token_id or [], stop)
    model.train(was_training)
    return completions


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list) -> list[list[int]]:
    """Token ids of texts, or of conversations up to where the assistant is to speak."""
    if prompts and isinstance(prompts[0], list):
        return tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tokenizer(prompts)["input_ids"] if prompts else []


def _check_lengths(ids: list[list[int]], max_new_tokens: int, model: PreTrainedModel) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for i, row in enumerate(ids):
        if not row:
            raise InputError(f"prompt: row {i} has no tokens; start prompts with the BOS token")
        if limit is not None and len(row) + max_new_tokens > limit:
            raise InputError(
                f"prompt: row {i} has {len(row)} tokens, which with {max_new_tokens} new ones exceed the model's "
                f"{limit} positions; shorten it, or lower max_completion_length or num_shots"
            )


def _generation_config(model, tokenizer, max_new_tokens: int, temperature: float, stop: str | None):
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise InputError("pad_token: the tokenizer has no pad token and no EOS; set tokenizer.pad_token and save it")
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_ids(model, tokenizer) or None,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        stop_strings=[stop] if stop else None,
        **sampling,
    )


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: those that the model's generation config declares, and the tokenizer's EOS."""
    declared = model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return sorted({i for i in (*declared, tokenizer.eos_token_id) if i is not None})


def _left_pad(rows: list[list[int]], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    input_ids = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows], device=device)
    # From the lengths, not from the pad token: padding may be done with EOS, which a prompt may hold.
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": input_ids, "attention_mask": mask}


def _read(tokenizer, prompt_ids: list[int], row: list[int], ends: list[int], stop: str | None) -> Completion:
    end = next((t for t, token in enumerate(row) if token in ends), None)
    ids = row if end is None else row[: end + 1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    if stop is None or stop not in text:
        return Completion(prompt_ids, ids, text, end is not None)
    # What follows the stop string in the batch is padding.
    length = next(n for n in range(1, len(ids) + 1) if stop in tokenizer.decode(ids[:n], skip_special_tokens=True))
    return Completion(prompt_ids, ids[:length], text.partition(stop)[0], True)
