"""What can be wrong with a dataset, found before the first step."""

from itertools import islice

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from hfcourse.errors import InputError

# A stream cannot be read to its end beforehand; its first rows show a wrong format.
ROWS_READ = 1000
READ_TO_THE_END = ("input_ids", "chosen_ids", "rejected_ids")


def check_columns(dataset, name: str, *columns: str) -> None:
    """Raises InputError where a dataset is missing, empty, or lacks a column; names those it has."""
    if dataset is None:
        raise InputError(f"{name}: is required")
    first = next(iter(dataset), None)
    if first is None:
        raise InputError(f"{name}: is empty; check the file and the split")
    for column in columns:
        if column not in first:
            raise InputError(f"{name}: has no column '{column}', only {sorted(first)}; rename or map one to it")


def check_padding(tokenizer) -> None:
    """Raises InputError for a tokenizer without anything to pad with: TRL takes EOS where there is no pad token."""
    is_text = isinstance(tokenizer, PreTrainedTokenizerBase)
    if is_text and tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise InputError("pad_token: the tokenizer has no pad token and no EOS; set tokenizer.pad_token and save it")


def num_positions(config) -> int | None:
    """The longest sequence that a model of this config can read, where it has a limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_row_lengths(config, max_length: int | None, **datasets) -> None:
    """Raises InputError for a row with more tokens than the model has positions.

    Past them a model with absolute positions fails in the middle of the run, and one with rotary positions reads what
    it never learnt to read.

    Args:
        config: the model's.
        max_length: what the trainer cuts longer rows to.
        datasets: train_dataset=…, eval_dataset=…, tokenised: with `input_ids`, or with `chosen_ids` and
            `rejected_ids`, to which `prompt_ids` belong where there are any.
    """
    limit = num_positions(config)
    if limit is None or (max_length is not None and max_length <= limit):
        return
    for name, dataset in datasets.items():
        if not isinstance(dataset, Dataset | IterableDataset):
            continue
        for i, row in enumerate(islice(dataset, ROWS_READ)):
            length = len(row.get("prompt_ids", ())) + max(len(row.get(column, ())) for column in READ_TO_THE_END)
            if min(length, max_length or length) > limit:
                raise InputError(
                    f"{name}: row {i} has {length} tokens, which exceed the model's {limit} positions; shorten it, or "
                    "set max_length"
                )


def check_prompt_lengths(dataset, tokenize_prompts, config, max_completion_length: int) -> None:
    """Raises InputError for a prompt that leaves no room for its completion in the model's positions.

    Args:
        tokenize_prompts: list of prompts -> (list of token ids, ...).
        config: the model's; `max_position_embeddings` is the limit, where it has one.
    """
    limit = num_positions(config)
    if limit is None:
        return
    prompts = [row["prompt"] for row in islice(dataset, ROWS_READ)]
    for i, ids in enumerate(tokenize_prompts(prompts)[0]):
        if len(ids) + max_completion_length > limit:
            raise InputError(
                f"prompt: row {i} has {len(ids)} tokens, which with max_completion_length={max_completion_length} "
                f"exceed the model's {limit} positions; shorten one of them"
            )
