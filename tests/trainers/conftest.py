"""Tokenizers for pretraining, as the collators' tests know them, and models of their size."""

import datasets
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from tests.collators.conftest import t5_tokenizer, word_piece  # noqa: F401
from tests.trainers.rollouts import ppo_trainer


@pytest.fixture(autouse=True)
def empty_dataset_cache(tmp_path, monkeypatch):
    """What one test computed is not there for the next."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="session")
def tiny_bert(word_piece):  # noqa: F811
    """Factory: `tiny_bert(seed)` has 2 layers of width 32 and, unless asked for, no dropout."""

    def make(seed=0, dropout=0.0, **overrides):
        torch.manual_seed(seed)
        shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
        rest = dict(vocab_size=len(word_piece), max_position_embeddings=128, initializer_range=0.2)
        drop = dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        return BertForMaskedLM(BertConfig(**shape, **rest, **drop, **overrides))

    return make


@pytest.fixture(scope="session")
def tiny_t5(t5_tokenizer):  # noqa: F811
    """Factory: `tiny_t5(seed)` has 1 + 1 layers of width 32 and, unless asked for, no dropout."""

    def make(seed=0, dropout=0.0, **overrides):
        torch.manual_seed(seed)
        shape = dict(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=4)
        config = T5Config(vocab_size=len(t5_tokenizer), dropout_rate=dropout, **{**shape, **overrides})
        config.decoder_start_token_id = 0
        return T5ForConditionalGeneration(config)

    return make


@pytest.fixture
def make_ppo(tiny_llama, tiny_tokenizer, tmp_path):
    """Factory of `tests.trainers.rollouts.ppo_trainer` with a tiny Llama."""

    def make(model=None, peft_config=None, ref_model=None, callbacks=None, **overrides):
        options = dict(peft_config=peft_config, ref_model=ref_model, callbacks=callbacks)
        model = tiny_llama(0) if model is None else model
        return ppo_trainer(
            model, tiny_tokenizer, options=options, **{"output_dir": str(tmp_path / "ppo"), **overrides}
        )

    return make
