"""What every test shares: no network, one thread, and tiny models."""

import gc
import os
import sys

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TRANSFORMERS_VERBOSITY="error",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    CUDA_VISIBLE_DEVICES="",
)

import pytest

CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = (
    "The red fox sleeps near the river.",
    "Mara lives in Oakton and likes green tea.",
    "What is the colour of the door? The door is blue.",
    "Two apples and three apples make five apples.",
)


def pytest_collection_finish():
    """Every `train()` of transformers collects garbage; walking all that was imported took most of a short one."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_dataset_cache(tmp_path_factory):
    """Nothing is read that an earlier run computed; processes that a test starts inherit the folder."""
    folder = tmp_path_factory.mktemp("datasets")
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_DATASETS_CACHE = folder


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Byte-level BPE of a few sentences; <|pad|> differs from <|endoftext|>, which is EOS and BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=special[0], eos_token=special[1], bos_token=special[1], padding_side="left"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def tiny_llama(tiny_tokenizer):
    """Factory: `tiny_llama(seed)` is a float32 Llama with 2 layers of width 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed=0, **overrides):
        torch.manual_seed(seed)
        config = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            "bos_token_id": tiny_tokenizer.bos_token_id,
            "initializer_range": 0.2,
        }
        return LlamaForCausalLM(LlamaConfig(**{**config, **overrides}))

    return make


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_tokenizer):
    """Factory: `tiny_gpt2(seed)` is a GPT-2 with 2 layers of width 32: absolute positions, dropout 0.1."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(seed=0, **overrides):
        torch.manual_seed(seed)
        config = {
            "vocab_size": len(tiny_tokenizer),
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 256,
            "pad_token_id": tiny_tokenizer.pad_token_id,
            "eos_token_id": tiny_tokenizer.eos_token_id,
            "bos_token_id": tiny_tokenizer.bos_token_id,
            "initializer_range": 0.2,
        }
        return GPT2LMHeadModel(GPT2Config(**{**config, **overrides}))

    return make


@pytest.fixture(scope="session")
def tiny_llama_dir(tiny_llama, tiny_tokenizer, tmp_path_factory):
    """A saved `tiny_llama(0)` with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_llama(0).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)
