"""What can be wrong with a dataset, found before the first step."""

from itertools import islice

from hfcourse.errors import InputError

# A stream cannot be read to its end beforehand; its first rows show a wrong format.
ROWS_READ = 1000


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


def check_preferences(dataset, name: str) -> None:
    """Raises InputError for pairs that teach nothing: identical, or with an empty answer on both sides."""
    if dataset is not None and {"chosen_ids", "rejected_ids"} <= set(next(iter(dataset), {})):
        return
    check_columns(dataset, name, "chosen", "rejected")
    for i, row in enumerate(islice(dataset, ROWS_READ)):
        if row["chosen"] == row["rejected"]:
            raise InputError(f"{name}: row {i}: 'chosen' and 'rejected' are the same; leave such pairs out")
        for column in ("chosen", "rejected"):
            if not row[column]:
                raise InputError(f"{name}: row {i}: '{column}' is empty; leave such pairs out")


def check_prompt_lengths(dataset, tokenize_prompts, config, max_completion_length: int) -> None:
    """Raises InputError for a prompt that leaves no room for its completion in the model's positions.

    Args:
        tokenize_prompts: list of prompts -> (list of token ids, ...).
        config: the model's; `max_position_embeddings` is the limit, where it has one.
    """
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return
    prompts = [row["prompt"] for row in islice(dataset, ROWS_READ)]
    for i, ids in enumerate(tokenize_prompts(prompts)[0]):
        if len(ids) + max_completion_length > limit:
            raise InputError(
                f"prompt: row {i} has {len(ids)} tokens, which with max_completion_length={max_completion_length} "
                f"exceed the model's {limit} positions; shorten one of them"
            )
