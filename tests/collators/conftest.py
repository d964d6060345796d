"""Tokenizers for pretraining tasks: a thousand words and T5's sentinels behind them."""

import pytest

NUM_WORDS = 1000
SENTINELS = [f"<extra_id_{j}>" for j in range(500)]


@pytest.fixture(scope="session")
def t5_tokenizer():
    """<pad> 0, </s> 1, <unk> 2, words to 999, three mode tokens, and 500 sentinels that descend from the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, NUM_WORDS)}}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    modes = ["[S]", "[X]", "[R]"]
    tokenizer.add_special_tokens({"extra_special_tokens": [*modes, *reversed(SENTINELS)]})
    return tokenizer
