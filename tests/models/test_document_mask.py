"""Packed documents do not see each other: a packed row's logits are those of its documents run one by one."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hfcourse.models.document_mask import attention_mask_for, document_mask

LENGTHS = (5, 1, 7, 3)


def qwen():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=8)
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=300, num_key_value_heads=2, initializer_range=0.2, **sizes))


def bert():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return BertForMaskedLM(BertConfig(vocab_size=300, initializer_range=0.2, **sizes))


def test_the_mask_by_hand():
    """Documents of 2 and 1 tokens: block triangles, no row of which is empty."""
    mask = document_mask(torch.tensor([[0, 1, 0]]))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]
    both_ways = document_mask(torch.tensor([[0, 1, 0]]), causal=False)
    assert both_ways.tolist() == [[[[True, True, False], [True, True, False], [False, False, True]]]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "qwen", "bert"])
def test_packed_equals_separate(name, attention, request):
    model = (request.getfixturevalue(name) if name.startswith("tiny") else globals()[name])().eval()
    model.set_attn_implementation(attention)
    documents = [torch.randint(4, 300, (1, n), generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
    input_ids = torch.cat(documents, 1)
    position_ids = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    mask = attention_mask_for(model, document_mask(position_ids, causal=name != "bert"))
    with torch.no_grad():
        packed = model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids).logits
        separate = torch.cat([model(input_ids=ids).logits for ids in documents], 1)
        leaking = model(input_ids=input_ids).logits
    torch.testing.assert_close(packed, separate, atol=1e-5, rtol=0)
    assert (leaking - separate).abs().max() > 1e-2  # what packing does without a mask


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sliding_windows_stay(attention):
    """ModernBERT, one layer of three global, a window of 4 to either side: documents of up to 30 tokens, packed, give
    what they give alone; with the global mask in the sliding layers they would not."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, local_attention=8)
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    model = ModernBertForMaskedLM(ModernBertConfig(vocab_size=300, initializer_range=0.2, **sizes, **ids)).eval()
    model.set_attn_implementation(attention)
    lengths = (30, 5, 17)
    documents = [torch.randint(4, 300, (1, n), generator=torch.Generator().manual_seed(n)) for n in lengths]
    input_ids, positions = torch.cat(documents, 1), torch.cat([torch.arange(n) for n in lengths])[None]
    mask = attention_mask_for(model, document_mask(positions, causal=False))
    with torch.no_grad():
        packed = model(input_ids=input_ids, attention_mask=mask, position_ids=positions).logits
        separate = torch.cat([model(input_ids=ids).logits for ids in documents], 1)
        wide = model(input_ids=input_ids, attention_mask=mask["full_attention"], position_ids=positions).logits
    torch.testing.assert_close(packed, separate, atol=1e-5, rtol=0)
    assert (wide - separate).abs().max() > 1e-2
