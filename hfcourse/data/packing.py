"""Packing: documents end to end, cut into blocks of one length. No padding, every token read once."""

from collections.abc import Iterator

import numpy as np
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

from hfcourse.errors import InputError

BATCH_ROWS = 1000


def pack_documents(
    dataset: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase, block_size: int, text_column: str = "text"
) -> Dataset | IterableDataset:
    """Blocks of `block_size` tokens, cut from the stream doc₁ EOS doc₂ EOS …

    The blocks one after another are a prefix of that stream; only a last, incomplete block is dropped. A block may
    begin in the middle of a document, and attention reaches back over a document's end: EOS is what tells the model
    to forget. Documents longer than a block go on in the next one.

    Args:
        dataset: with a column of texts. It is not shuffled here.
        block_size: tokens a block.

    Returns:
        Dataset of the same kind with one column, `input_ids`: (block_size,) int32.

    Raises:
        InputError: no such column, no EOS token, or less text than one block.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("eos_token: the tokenizer has none, so documents cannot be told apart; set one")
    first = next(iter(dataset), None)
    if first is None:
        raise InputError("the dataset is empty: there is nothing to pack")
    if text_column not in first:
        raise InputError(f"the dataset has no column '{text_column}' to pack, only {', '.join(sorted(first))}")

    tokens = dataset.map(
        _tokenize,
        batched=True,
        fn_kwargs={"tokenizer": tokenizer, "text_column": text_column},
        remove_columns=list(first),
    )
    sources = {"tokens": tokens.with_format("arrow"), "block_size": block_size}
    if next(_blocks(**sources), None) is None:
        raise InputError(f"block_size={block_size}: the whole dataset is shorter than one block")
    kind = Dataset if isinstance(dataset, Dataset) else IterableDataset
    return kind.from_generator(_blocks, features=Features({"input_ids": List(Value("int32"))}), gen_kwargs=sources)


def _tokenize(batch: dict, tokenizer: PreTrainedTokenizerBase, text_column: str) -> dict:
    # verbose=False: a document longer than the model's context is cut into blocks below, nothing to warn about.
    ids = tokenizer(batch[text_column], add_special_tokens=False, verbose=False)["input_ids"]
    return {"input_ids": [[*document, tokenizer.eos_token_id] for document in ids]}


def _blocks(tokens: Dataset | IterableDataset, block_size: int) -> Iterator[dict[str, np.ndarray]]:
    rest = np.empty(0, dtype=np.int32)
    for table in tokens.iter(batch_size=BATCH_ROWS):
        column = table.column("input_ids").combine_chunks()
        stream = np.concatenate([rest, column.flatten().to_numpy().astype(np.int32)])
        whole = len(stream) - len(stream) % block_size
        for block in stream[:whole].reshape(-1, block_size):
            yield {"input_ids": block}
        rest = stream[whole:]
