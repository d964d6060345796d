"""The trained tokenizer: nothing is unknown, nothing is lost, and the same texts give the same tokenizer."""

import json

import pytest
from transformers import AutoTokenizer

from hfcourse.errors import InputError
from hfcourse.tokenization import train_tokenizer

TEXTS = ["Mara lives in Oakton and has three red apples.", "The fox sleeps near the river. The river is wide."] * 30
UNSEEN = ["naïve café: 12 €", "狐狸在河边睡觉。", "a\tb\n\n  c", "\U0001f98a", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300)


def test_special_tokens(tokenizer):
    assert len(tokenizer) == 300
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<|pad|>", *["<|endoftext|>"] * 2)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer("river")["input_ids"][-1] != tokenizer.eos_token_id  # packing and trainers write EOS, not we
    assert tokenizer("fox<|endoftext|>")["input_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("text", [*TEXTS[:2], *UNSEEN])
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_frequent_words_are_one_token(tokenizer):
    assert len(tokenizer(" river")["input_ids"]) == 1
    assert sum(len(tokenizer(text)["input_ids"]) for text in TEXTS) < sum(map(len, TEXTS)) / 2


def test_the_same_texts_give_the_same_tokenizer(tokenizer):
    again = train_tokenizer((text for text in TEXTS), vocab_size=300)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_saved_and_loaded_it_is_the_same(tmp_path):
    chat = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    tokenizer = train_tokenizer(
        TEXTS, 300, special_tokens=("<|im_start|>", "<|im_end|>"), model_max_length=64, chat_template=chat
    )
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS[:2], *UNSEEN, "<|im_start|>fox<|im_end|>"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(TEXTS[0])["input_ids"]) == TEXTS[0]
    assert (loaded.pad_token_id, loaded.eos_token_id, loaded.model_max_length) == (0, 1, 64)
    assert len(loaded("<|im_end|>")["input_ids"]) == 1
    message = [{"role": "user", "content": "fox"}]
    assert loaded.apply_chat_template(message, tokenize=False) == "<|im_start|>fox<|im_end|>"


def test_merges_are_the_most_frequent_pairs():
    """Four times xyxyxz: xy 8, yx 8, xz 4; of equals, the pair of the smaller ids goes first: xy.

    Then xy xy x z: (xy, xy), (xy, x) and (x, z) 4 times each, and x and z, being bytes, have the smallest ids: xz.
    """
    tokenizer = train_tokenizer(["xyxyxz"] * 4, vocab_size=260, min_frequency=2)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert merges == [["x", "y"], ["x", "z"]]


def test_bad_input_is_named():
    with pytest.raises(InputError, match="vocab_size=258: must exceed 258"):
        train_tokenizer(TEXTS, 258)
    with pytest.raises(InputError, match="no text"):
        train_tokenizer(iter([]), 300)
    with pytest.raises(InputError, match="no text"):
        train_tokenizer(["", ""], 300)
