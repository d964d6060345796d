"""Tasks as text to text: an input and a target, tokenised for an encoder-decoder and mixed into a stream of blocks."""

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset, interleave_datasets
from transformers import PreTrainedTokenizerBase

from hfcourse.errors import InputError


def tokenize_tasks(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    input_length: int,
    target_length: int,
    input_column: str = "input",
    target_column: str = "target",
) -> Dataset | IterableDataset:
    """Columns `input_ids` and `labels`, each ended by EOS, from two columns of texts.

    Args:
        input_length, target_length: longer texts are cut, as T5 does; EOS stays the last token.

    Raises:
        InputError: a column is missing, or the tokenizer has no EOS.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("eos_token: the tokenizer has none; set one")
    first = next(iter(dataset), {})
    for column in (input_column, target_column):
        if column not in first:
            raise InputError(f"tasks: the dataset has no column '{column}', only {', '.join(sorted(first))}")
    limits = {"input_ids": (input_column, input_length), "labels": (target_column, target_length)}
    return dataset.map(
        _tokenize, batched=True, fn_kwargs={"tokenizer": tokenizer, "limits": limits}, remove_columns=list(first)
    )


def mix_tasks(blocks, tasks, task_rate: float, seed: int = 0):
    """One dataset of both, in which a share `task_rate` of the rows are tasks; the shorter one is repeated.

    Returns:
        Dataset of their kind with the columns `input_ids` and `labels`; the labels of a block are empty.

    Raises:
        InputError: a rate that is no share.
    """
    if not 0 < task_rate < 1:
        raise InputError(f"task_rate={task_rate}: must lie between 0 and 1; leave the tasks out, or the corpus")
    if isinstance(blocks, Dataset):
        empty = pa.array([[]] * len(blocks), type=pa.list_(pa.int32()))
        blocks = blocks.add_column("labels", empty)
    else:
        blocks = blocks.map(_without_labels)
    return interleave_datasets(
        [blocks, tasks], probabilities=[1 - task_rate, task_rate], seed=seed, stopping_strategy="all_exhausted"
    )


def _without_labels(row: dict) -> dict:
    return {**row, "labels": []}


def _tokenize(batch: dict, tokenizer: PreTrainedTokenizerBase, limits: dict[str, tuple[str, int]]) -> dict:
    columns = {}
    for name, (column, limit) in limits.items():
        ids = tokenizer(batch[column], add_special_tokens=False, verbose=False)["input_ids"]
        columns[name] = [np.array([*row[: limit - 1], tokenizer.eos_token_id], dtype=np.int32) for row in ids]
    return columns
