"""Perplexity against a sum by hand; windows predict every token once."""

import math

import pytest
import torch

from hfcourse.errors import InputError
from hfcourse.evaluation.perplexity import _windows, perplexity

TEXTS = ["The red fox sleeps near the river.", "Two apples"]


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity(tiny_llama, tiny_tokenizer):
    """Equal logits: log V nats a token, perplexity V, tokens · log₂V / bytes bits a byte."""
    model = tiny_llama(0)
    torch.nn.init.zeros_(model.lm_head.weight)
    measured = perplexity(model, tiny_tokenizer, TEXTS)
    num_tokens = sum(len(ids) for ids in tiny_tokenizer(TEXTS)["input_ids"])
    assert measured["num_tokens"] == num_tokens
    assert measured["num_bytes"] == sum(len(t.encode()) for t in TEXTS)
    assert measured["perplexity"] == pytest.approx(len(tiny_tokenizer), rel=1e-5)
    assert measured["bits_per_byte"] == pytest.approx(num_tokens * math.log2(len(tiny_tokenizer)) / 44, rel=1e-5)


def test_it_equals_the_models_own_loss(tiny_llama, tiny_tokenizer):
    model = tiny_llama(0).eval()
    ids = torch.tensor([[tiny_tokenizer.bos_token_id, *tiny_tokenizer(TEXTS[0])["input_ids"]]])
    with torch.no_grad():
        loss = model(ids, labels=ids).loss.item()
    assert perplexity(model, tiny_tokenizer, TEXTS[:1])["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 7, 12, 13])
@pytest.mark.parametrize(("max_length", "stride"), [(4, 2), (4, 1), (4, 3), (5, 4)])
def test_windows_predict_every_token_once(length, max_length, stride):
    ids = list(range(length))
    windows = list(_windows(ids, max_length, stride))
    assert [token for _, target in windows for token in target] == ids[1:]
    for context, target in windows:
        assert context
        assert len(context) + len(target) <= max_length
        assert context[-1] + 1 == target[0]
        assert context == list(range(context[0], context[-1] + 1))


def test_nothing_to_predict(tiny_llama, tiny_tokenizer):
    with pytest.raises(InputError, match="empty"):
        perplexity(tiny_llama(0), tiny_tokenizer, [""])


def test_a_window_needs_context(tiny_llama, tiny_tokenizer):
    with pytest.raises(InputError, match="stride=8"):
        perplexity(tiny_llama(0), tiny_tokenizer, TEXTS, max_length=8, stride=8)
