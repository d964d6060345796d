"""FLOPs: by hand, and against torch's counter on five models and every method's passes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from hfcourse.scaling.flops import forward_flops, generation_flops, method_flops, training_flops
from hfcourse.scaling.methods import Batch
from hfcourse.scaling.shapes import ModelShape, shape_of_config

IDS = {"vocab_size": 120, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = dict(hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4, **IDS)
CONFIGS = {
    "llama": LlamaConfig(**LLAMA),
    "llama, grouped keys, tied": LlamaConfig(**LLAMA, num_key_value_heads=2, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**LLAMA, num_key_value_heads=1),
    "qwen3, wide heads": Qwen3Config(**LLAMA, num_key_value_heads=2, head_dim=16),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **IDS),
}
BY_HAND = ModelShape(10, 4, 8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=2, num_params=0)


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def counted(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_by_hand():
    """d = 4, d_q = 4, d_kv = 2, f = 8, V = 10: q and o 16 each, k and v 8 each, three matrices of 32: 144.

    Three tokens, two scored: 2·3·144 + 4·3·3·4 + 2·2·4·10 = 864 + 144 + 160 = 1168; trained 3 times that.
    """
    assert BY_HAND.layer_matrix_params == 144
    assert forward_flops(BY_HAND, 3, 2) == 1168
    assert training_flops(BY_HAND, 3, 2) == 3504


def test_generation_by_hand():
    """Prompt 3, completion 3: the prompt 864 + 144 + 80, then two tokens 288 + 80 each over 4 and 5 keys (16 each)."""
    assert generation_flops(BY_HAND, 3, 3) == 1088 + 2 * 368 + 16 * (4 + 5)
    assert generation_flops(BY_HAND, 3, 1) == 1088


def test_forward_and_backward(model):
    shape, ids = shape_of_config(model.config), torch.randint(3, 120, (2, 24))
    assert counted(lambda: model(ids, use_cache=False)) == 2 * forward_flops(shape, 24, 24)
    assert counted(lambda: model(ids, use_cache=False).logits.sum().backward()) == 2 * training_flops(shape, 24, 24)


def test_generation(model):
    """Greedy, without an end: prefill of 5, then 6 tokens one by one."""
    shape, ids = shape_of_config(model.config), torch.randint(3, 120, (3, 5))
    options = dict(max_new_tokens=7, min_new_tokens=7, do_sample=False)
    flops = counted(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **options))
    assert flops == pytest.approx(3 * generation_flops(shape, 5, 7), rel=1e-3)  # rotary angles are products, too


def test_lora_trains_without_weight_gradients(model):
    """Frozen weights: the gradient of the input alone. The first layer's q, k and v need none, the last ones do."""
    shape, ids = shape_of_config(model.config), torch.randint(3, 120, (2, 24))
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    model.requires_grad_(False)
    flops = counted(lambda: model(inputs_embeds=embeddings, use_cache=False).logits.sum().backward())
    assert flops == pytest.approx(2 * training_flops(shape, 24, 24, is_lora=True), rel=1e-9)


def test_methods_are_made_of_passes():
    """B = 2, P = 3, C = 2. DPO trains 4 sequences and reads 4; PPO writes, reads twice, trains μ times."""
    batch = Batch(2, 3, 2, num_iterations=3)
    trained, read = training_flops(BY_HAND, 5, 2), forward_flops(BY_HAND, 5, 2)
    assert method_flops(BY_HAND, "clm", batch) == 2 * training_flops(BY_HAND, 5, 5)
    assert method_flops(BY_HAND, "sft", batch) == 2 * trained
    assert method_flops(BY_HAND, "rm", batch) == 4 * training_flops(BY_HAND, 5, 0)
    assert method_flops(BY_HAND, "dpo", batch) == 4 * (trained + read)
    assert method_flops(BY_HAND, "ppo", batch) == 2 * (generation_flops(BY_HAND, 3, 2) + 2 * read + 3 * trained)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda shape, t, s: 2 * t * shape.num_layers * shape.layer_matrix_params + 2 * s * 32 * 120,
        lambda shape, t, s: forward_flops(shape, t, s) / 2,
        lambda shape, t, s: forward_flops(shape, t, 1),
        lambda shape, t, s: forward_flops(shape, t, s, num_keys=t // 2),
    ],
    ids=["no attention", "a product is one operation", "one position scored", "causal half"],
)
def test_wrong_counts_are_off_by_more_than_five_per_cent(wrong):
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"], attn_implementation="eager")
    ids = torch.randint(3, 120, (1, 64))
    seen = counted(lambda: model(ids, use_cache=False))
    assert abs(wrong(shape_of_config(model.config), 64, 64) / seen - 1) > 0.05
