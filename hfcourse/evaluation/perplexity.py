"""How well a model predicts a text: nats a token, perplexity, and bits a byte, which compares tokenizers too."""

import math

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError
from hfcourse.evaluation.kl import batches_by_length, completion_logits
from hfcourse.logprobs import token_logps

MAX_TOKENS_PER_BATCH = 8192


@torch.inference_mode()
def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    max_length: int = 1024,
    stride: int | None = None,
) -> dict[str, float]:
    """Likelihood of texts, every token of them predicted once.

        loss = -(1/N) Σ log p(token)        perplexity = exp(loss)        bits_per_byte = N · loss / (ln 2 · bytes)

    Args:
        texts: each starts anew after BOS (or EOS), so that its first token is predicted too.
        max_length: tokens that the model sees at once.
        stride: new tokens a window; a longer text is read in windows that overlap by max_length - stride. Half of
            max_length by default.

    Returns:
        loss, perplexity, bits_per_byte, num_tokens, num_bytes.

    Raises:
        InputError: no text, a stride as long as the window, or a tokenizer with neither BOS nor EOS.
    """
    start_id = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start_id is None:
        raise InputError("bos_token: the tokenizer has neither BOS nor EOS; the first token would have no context")
    stride = stride or max(1, max_length // 2)
    if not 0 < stride < max_length:
        raise InputError(f"stride={stride}: must leave a window of {max_length} tokens some context; make it smaller")
    contexts, targets = [], []
    for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []:
        for context, target in _windows([start_id, *ids], max_length, stride):
            contexts.append(context)
            targets.append(target)
    if not targets:
        raise InputError("text: there is nothing to predict; the texts are empty")
    total = 0.0
    for rows in batches_by_length(
        [len(c) + len(t) for c, t in zip(contexts, targets, strict=True)], MAX_TOKENS_PER_BATCH
    ):
        logits, mask = completion_logits(model, [contexts[i] for i in rows], [targets[i] for i in rows])
        labels = torch.tensor([token for i in rows for token in targets[i]], device=logits.device)
        total -= token_logps(logits[mask], labels)[0].sum(dtype=torch.float64).item()
    num_tokens, num_bytes = sum(map(len, targets)), sum(len(text.encode("utf-8")) for text in texts)
    return {
        "loss": total / num_tokens,
        "perplexity": math.exp(total / num_tokens),
        "bits_per_byte": total / math.log(2) / num_bytes,
        "num_tokens": num_tokens,
        "num_bytes": num_bytes,
    }


def _windows(ids: list[int], max_length: int, stride: int):
    """(context, target) pairs: targets end to end are ids[1:], and no pair is longer than max_length."""
    end = min(max_length, len(ids))
    if end > 1:
        yield ids[:1], ids[1:end]
    while end < len(ids):
        start, end = end, min(end + stride, len(ids))
        first = max(0, end - max_length)
        yield ids[first:start], ids[start:end]
