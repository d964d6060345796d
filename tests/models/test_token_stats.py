"""The second forward of a causal LM: the numbers of its own logits, for every kind of head."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from hfcourse.errors import InputError
from hfcourse.models.token_stats import add_token_stats_head, has_linear_head
from hfcourse.models.value_head import add_value_head, load_value_head, save_value_head, split_value_head

SHAPE = dict(vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)


def gemma2(cap=3.0):
    """Caps its logits: the trunk's hidden states and the head's weight are not the whole story."""
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, num_key_value_heads=2, final_logit_softcapping=cap))


def granite():
    """Divides its logits."""
    return GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=4.0))


def modernbert_decoder():
    """A layer and a norm between trunk and head."""
    config = ModernBertDecoderConfig(**SHAPE, layer_types=["full_attention"] * 2, pad_token_id=0)
    return ModernBertDecoderForCausalLM(config)


def opt():
    """Its head reads a decoder within the base model."""
    shape = dict(hidden_size=32, ffn_dim=64, num_hidden_layers=1, num_attention_heads=4, word_embed_proj_dim=32)
    return OPTForCausalLM(OPTConfig(vocab_size=60, max_position_embeddings=32, **shape))


class LlamaWithoutBase(LlamaForCausalLM):
    """As Llama 4: what it names as its base model is not there."""

    base_model_prefix = "language_model"


def phi():
    """Its head has a bias."""
    model = PhiForCausalLM(PhiConfig(**SHAPE))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


@pytest.fixture
def batch():
    ids = torch.randint(4, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :4] = -100
    labels[1, 7:] = -100
    return ids, labels


@pytest.fixture
def model(request, tiny_llama, tiny_gpt2):
    torch.manual_seed(0)
    makers = dict(llama=tiny_llama, gpt2=tiny_gpt2, without_base=lambda: LlamaWithoutBase(tiny_llama().config))
    return (makers | {make.__name__: make for make in HEADS})[request.param]().eval()


HEADS = (gemma2, granite, modernbert_decoder, opt, phi)
LINEAR = {"llama": True, "gpt2": True, "opt": True, "phi": True, "gemma2": False, "granite": False}
LINEAR |= {"modernbert_decoder": False, "without_base": False}


@pytest.mark.parametrize(("model", "is_linear"), LINEAR.items(), indirect=["model"])
def test_what_stands_before_or_after_a_head_is_found(model, is_linear):
    """Also where a new model's own logits would not show it; the trial leaves mode and random numbers alone."""
    model.train()
    before = torch.random.get_rng_state()
    assert has_linear_head(model, model.forward) == is_linear
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    capped = gemma2(cap=50.0)
    assert not has_linear_head(capped, capped.forward)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)  # nothing shows
    assert not has_linear_head(model, model.forward)


@pytest.mark.parametrize("model", LINEAR, indirect=True)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_stats_are_those_of_the_models_own_logits(model, temperature, batch):
    ids, labels = batch
    logits = model(ids).logits[:, :-1].detach()
    add_token_stats_head(model, temperature)
    stats = model(input_ids=ids, labels=labels, token_stats=True)
    mask = labels[:, 1:] != -100
    log_probs = torch.log_softmax(logits / temperature, -1)
    logps = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(stats["logps"], logps * mask, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stats["entropy"], -(log_probs.exp() * log_probs).sum(-1) * mask, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stats["mean_logits"], logits.mean(-1) * mask, atol=1e-5, rtol=1e-5)
    assert torch.equal(stats["is_top1"], (logits.argmax(-1) == ids[:, 1:]) & mask)
    assert "values" not in stats


def test_without_the_keyword_nothing_changes(batch, tiny_llama):
    model, (ids, labels) = tiny_llama(0).eval(), batch
    before = model(ids, labels=labels)
    add_token_stats_head(model)
    after = model(ids, labels=labels)
    assert torch.equal(before.logits, after.logits)
    assert before.loss == after.loss
    assert torch.equal(
        model.generate(ids[:1], max_new_tokens=3, do_sample=False),
        tiny_llama(0).eval().generate(ids[:1], max_new_tokens=3, do_sample=False),
    )


@pytest.mark.parametrize("where", [{}, {"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize("model", ["llama", "gemma2"], indirect=True)
def test_an_adapter_is_read_and_learns_on_the_head_too(model, where, batch):
    options = {"target_modules": ["q_proj"], **where}
    model = get_peft_model(model, LoraConfig(**options, task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    ids, labels = batch
    add_token_stats_head(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(1.5)
    logits = model(ids).logits[:, :-1]
    mask = labels[:, 1:] != -100
    expected = (logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask).sum()
    names, weights = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    wanted = torch.autograd.grad(expected, weights)
    found = model(input_ids=ids, labels=labels, token_stats=True)["logps"].sum()
    for name, a, b in zip(names, torch.autograd.grad(found, weights), wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        assert b.any() or "lm_head" not in name


def test_values_are_zero_at_first_then_linear_in_the_state_before_the_token(batch, tiny_llama):
    model, (ids, labels) = tiny_llama(0).eval(), batch
    add_value_head(model)
    add_token_stats_head(model)
    assert model(input_ids=ids, labels=labels, token_stats=True)["values"].abs().sum() == 0
    torch.nn.init.normal_(model.value_head.weight)
    values = model(input_ids=ids, labels=labels, token_stats=True)["values"]
    hidden = model.model(ids).last_hidden_state
    expected = hidden[0, 4] @ model.value_head.weight[0]  # the state before token 5 ends with token 4
    torch.testing.assert_close(values[0, 4], expected, atol=1e-5, rtol=1e-5)
    assert values[1, 6:].abs().sum() == 0


def test_the_value_head_is_parted_from_the_policy_and_read_back(tmp_path, tiny_llama):
    model = tiny_llama(0)
    names = set(model.state_dict())
    add_value_head(model)
    torch.nn.init.normal_(model.value_head.weight)
    policy, head = split_value_head(model.state_dict())
    assert set(policy) == names
    assert set(head) == {"weight", "bias"}
    save_value_head(head, tmp_path)
    other = tiny_llama(1)
    add_value_head(other)
    load_value_head(other, tmp_path)
    assert torch.equal(other.value_head.weight, model.value_head.weight)
    with pytest.raises(InputError, match=r"value_head\.safetensors"):
        load_value_head(other, tmp_path / "nothing")
