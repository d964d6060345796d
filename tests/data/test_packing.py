"""Packing loses nothing, repeats nothing, and marks where documents end."""

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerFast

from hfcourse.data import pack_documents, packing
from hfcourse.errors import InputError

TEXTS = ["Mara lives in Oakton.", "", "The red fox sleeps near the river. " * 9, "Two apples.", "What? " * 40] * 7


def stream_of(tokenizer):
    return [token for text in TEXTS for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_the_blocks_are_a_prefix_of_the_stream(tiny_tokenizer, block_size, streaming, monkeypatch):
    """Read three rows at a time: what is left of a batch must begin the next one, not be dropped."""
    monkeypatch.setattr(packing, "BATCH_ROWS", 3)
    dataset = Dataset.from_dict({"text": TEXTS, "id": range(len(TEXTS))})
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    blocks = pack_documents(dataset, tiny_tokenizer, block_size)
    assert isinstance(blocks, IterableDataset if streaming else Dataset)
    expected = stream_of(tiny_tokenizer)
    for _ in range(2):  # a stream starts anew each time it is read
        rows = list(blocks)
        assert {len(row["input_ids"]) for row in rows} == {block_size}
        assert set(rows[0]) == {"input_ids"}
        flat = np.concatenate([row["input_ids"] for row in rows]).tolist()
        assert flat == expected[: len(expected) // block_size * block_size]


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_positions_start_with_each_document_and_block(tiny_tokenizer, block_size, monkeypatch):
    """Counted one by one: a token after an EOS, or first in its block, is at 0; every other follows its neighbour."""
    monkeypatch.setattr(packing, "BATCH_ROWS", 3)
    for row in pack_documents(Dataset.from_dict({"text": TEXTS}), tiny_tokenizer, block_size, with_positions=True):
        expected = [0]
        for token in row["input_ids"][:-1]:
            expected.append(0 if token == tiny_tokenizer.eos_token_id else expected[-1] + 1)
        assert row["position_ids"] == expected


def test_every_document_ends_with_one_eos(tiny_tokenizer):
    blocks = pack_documents(Dataset.from_dict({"text": TEXTS}), tiny_tokenizer, 1)
    flat = [row["input_ids"][0] for row in blocks]
    assert flat.count(tiny_tokenizer.eos_token_id) == len(TEXTS)
    assert tiny_tokenizer.decode(flat) == "".join(f"{text}<|endoftext|>" for text in TEXTS)


def test_another_column(tiny_tokenizer):
    blocks = pack_documents(Dataset.from_dict({"body": TEXTS}), tiny_tokenizer, 8, text_column="body")
    assert blocks.column_names == ["input_ids"]


def test_bad_input_is_named(tiny_tokenizer):
    texts = Dataset.from_dict({"text": ["a"]})
    with pytest.raises(InputError, match="no column 'body' to pack, only text"):
        pack_documents(texts, tiny_tokenizer, 8, text_column="body")
    with pytest.raises(InputError, match="nothing to pack"):
        pack_documents(Dataset.from_dict({"text": []}), tiny_tokenizer, 8)
    with pytest.raises(InputError, match="block_size=64: the whole dataset is shorter"):
        pack_documents(texts, tiny_tokenizer, 64)
    without_eos = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    with pytest.raises(InputError, match="eos_token"):
        pack_documents(texts, without_eos, 1)
