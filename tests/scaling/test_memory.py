"""Memory: known totals by hand, what autograd keeps counted tensor by tensor, and one training's measured peak."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config, T5Config

from hfcourse.errors import InputError
from hfcourse.scaling.memory import activation_bytes, kv_cache_bytes, largest_batch, logit_bytes, training_memory
from hfcourse.scaling.methods import Batch
from hfcourse.scaling.shapes import ModelShape, shape_for, shape_of_config

ROOT = Path(__file__).parents[2]
LLAMA = dict(vocab_size=120, hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4)
CONFIGS = {
    "llama": LlamaConfig(**LLAMA),
    "llama, grouped keys": LlamaConfig(**LLAMA, num_key_value_heads=2),
    "qwen2": Qwen2Config(**LLAMA, num_key_value_heads=1),
    "qwen3": Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=32),
    "gpt2": GPT2Config(vocab_size=120, n_embd=64, n_layer=3, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0),
}
LLAMA_7B = dict(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
ZERO_7B = ModelShape(1, 1, 1, 1, 1, 1, 1, num_params=7_500_000_000)
BATCH = Batch(2, 16, 16)


def kept_for_backward(model, num_tokens: int, autocast: bool) -> int:
    """Bytes of the different storages that autograd saves in the trunk, weights and their casts not counted."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    weights = {tuple(p.shape) for p in matrices} | {tuple(p.mT.shape) for p in matrices}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tuple(tensor.shape) not in weights:
            kept[storage.data_ptr()] = tensor
        return tensor

    ids = torch.randint(3, 120, (2, num_tokens // 2))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", enabled=autocast):
        out = model.base_model(ids, use_cache=False)
    assert out.last_hidden_state.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", [4, 2], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_activations_are_what_autograd_keeps(name, precision):
    """Within 3 %: without rotary angles and the norms' one number a token. The last norm's output is the head's."""
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    seen = kept_for_backward(model, 200, autocast=precision == 2)
    planned = activation_bytes(shape_of_config(model.config), 200, precision) - 200 * 64 * precision
    assert planned == pytest.approx(seen, rel=0.03)


def test_parameters_of_models_that_are_known():
    """Llama 2 7B: 6,738,415,616; SmolLM2-135M: 134,515,008; Qwen2.5-0.5B: 494,032,768; GPT-2: 124,439,808."""
    llama = shape_of_config(LlamaConfig(**LLAMA_7B, num_attention_heads=32))
    assert llama.num_params == 6_738_415_616
    assert (llama.is_gated, llama.is_tied, llama.kv_size) == (True, False, 4096)
    small = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    assert shape_of_config(small).num_params == 134_515_008
    qwen = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    assert shape_of_config(qwen).num_params == 494_032_768
    gpt2 = shape_of_config(GPT2Config())
    assert (gpt2.num_params, gpt2.is_gated, gpt2.intermediate_size) == (124_439_808, False, 3072)


def test_kv_cache_by_hand():
    """Llama 2 7B in bf16: 2 · 32 layers · 4096 · 2 bytes = half a MiB a token."""
    shape = shape_of_config(LlamaConfig(**LLAMA_7B, num_attention_heads=32))
    assert kv_cache_bytes(shape, 1, 1, 2) == 2**19
    assert kv_cache_bytes(shape, 3, 100, 4) == 3 * 100 * 2 * 2**19


def test_zero_paper():
    """Figure 1 of https://huggingface.co/papers/1910.02054: 7.5 B parameters, 64 devices, 16.6 GB and 1.9 GB."""
    for strategy, gigabytes in (("zero2", 16.6), ("zero3", 1.9)):
        m = training_memory(ZERO_7B, "clm", strategy, BATCH, num_devices=64, precision=2)
        assert (m.weights + m.gradients + m.optimizer) / 1e9 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize(
    ("strategy", "weights", "gradients", "optimizer"),
    [("none", 4, 4, 8), ("ddp", 4, 8, 8), ("fsdp2", 1, 1, 2), ("lora", 4, 0.004, 0.008)],
)
def test_states_by_hand(strategy, weights, gradients, optimizer):
    """Bytes a parameter in float32, four devices; LoRA of 7.5 M parameters adds 0.004 to the weights."""
    lora = 7_500_000 if strategy == "lora" else 0
    m = training_memory(ZERO_7B, "clm", strategy, BATCH, 4, lora_params=lora)
    n = ZERO_7B.num_params
    assert m.weights / n == pytest.approx(weights + 4 * lora / n)
    assert (m.gradients / n, m.optimizer / n) == pytest.approx((gradients, optimizer))


def test_references_and_logits_by_hand():
    """V = 120, 2 pairs of 16 + 16 tokens: 4 sequences, 64 scored rows; (5 + 3) copies of 64 × 120 floats."""
    shape = shape_of_config(CONFIGS["llama"])
    assert logit_bytes(shape, "dpo", 4, BATCH) == 8 * 64 * 120 * 4
    assert logit_bytes(shape, "clm", 2, BATCH) == 3 * 64 * 120 * 4
    assert logit_bytes(shape, "sft", 2, BATCH) == 5 * 32 * 120 * 4
    assert logit_bytes(shape, "rm", 4, BATCH) == 0
    n = 4 * shape.num_params
    references = {m: training_memory(shape, m, "none", BATCH).reference for m in ("clm", "sft", "rm", "dpo", "ppo")}
    assert references == {"clm": 0, "sft": 0, "rm": 0, "dpo": n, "ppo": n}
    assert training_memory(shape, "ppo", "lora", BATCH, lora_params=10).reference == 0


def test_checkpointing_keeps_one_layer():
    """Of 32 layers: each keeps its input, 4 d a token, and one what it needs."""
    shape = shape_of_config(LlamaConfig(**LLAMA_7B, num_attention_heads=32))
    layer = (activation_bytes(shape, 1) - 3 * 4 * 4096) / 32
    assert activation_bytes(shape, 1, gradient_checkpointing=True) == 32 * 4 * 4096 + layer + 3 * 4 * 4096


def test_the_largest_batch_fits_and_the_next_does_not():
    shape, options = shape_for(1.2e9), {"precision": 2}
    batch = Batch(1, 512, 512)
    size = largest_batch(80e9, shape, "sft", "none", batch, **options)
    peaks = [training_memory(shape, "sft", "none", Batch(b, 512, 512), **options).peak for b in (size, 2 * size)]
    assert peaks[0] <= 0.92 * 80e9 < peaks[1]
    assert largest_batch(1e9, shape, "sft", "none", batch, **options) == 0


@pytest.mark.parametrize("num_params", [3e6, 2e7, 4e8, 3e9, 7e10])
def test_a_shape_for_a_size(num_params):
    """The layers are whole, so the size is near and not exact; heads divide the width, and the count is the sum."""
    shape = shape_for(num_params, vocab_size=1000)
    assert shape.num_params == pytest.approx(num_params, rel=0.1)
    assert shape.num_heads * shape.head_dim == shape.hidden_size
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
    )
    assert shape_of_config(config).num_params == shape.num_params


def test_what_has_no_formula():
    for config in (T5Config(vocab_size=100), AutoConfig.for_model("mixtral", vocab_size=100)):
        with pytest.raises(InputError, match=rf"{config.model_type} is no dense decoder"):
            shape_of_config(config)


def test_one_trainings_peak():
    """GPT-2 of six layers under CausalLMTrainer, in a process of its own: within 15 %, FLOPs within 5 %.

    The peak is read from /proc, so on Linux alone.
    """
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from planner import in_a_process, planned
    finally:
        sys.path.pop(0)
    seen, plan = in_a_process("gpt2", "clm"), planned("gpt2", "clm")
    assert plan["flops"] == pytest.approx(seen["flops"], rel=0.05)
    if sys.platform == "linux":
        assert plan["memory"] == pytest.approx(seen["memory"], rel=0.15)
