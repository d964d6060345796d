"""What can be wrong with preference pairs, found before the first step, with the row and the remedy."""

from collections.abc import Iterator
from itertools import islice

from datasets import Dataset

from hfcourse.errors import InputError
from hfcourse.trainers.checks import ROWS_READ, check_columns

COLUMNS = ("prompt", "chosen", "rejected")
SIDES = ("chosen", "rejected")
# Columns that say how good each side is, by whoever made the data set; a pair should not be against them.
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))


def check_preferences(dataset, name: str) -> None:
    """Raises InputError for pairs that teach nothing, or something else than was meant.

    Identical or empty answers; texts beside messages; messages without role or content, or in the wrong role; answers
    that hold the prompt once more; no prompt and no beginning in common; negative margins, and scores by which most
    rejected answers are the better ones: columns that were swapped. Every row of a data set is read, the first 1,000
    of a stream.
    """
    if isinstance(dataset, dict):
        for part, rows in dataset.items():
            check_preferences(rows, f"{name}[{part}]")
        return
    if dataset is not None and {"chosen_ids", "rejected_ids"} <= set(next(iter(dataset), {})):
        return
    check_columns(dataset, name, *SIDES)
    swapped = rows = 0
    for i, row in enumerate(_rows(dataset)):
        place = f"{name}: row {i}: "
        _check_types(row, place)
        _check_answers(row, place)
        _check_prompt(row, place)
        scores = next((pair for pair in SCORES if set(pair) <= row.keys()), None)
        rows += 1
        swapped += scores is not None and row[scores[0]] < row[scores[1]]
    if 2 * swapped > rows:
        raise InputError(
            f"{name}: in {swapped} of {rows} rows the rejected answer has the higher score; are the columns 'chosen' "
            "and 'rejected' swapped?"
        )


def _rows(dataset) -> Iterator[dict]:
    if not isinstance(dataset, Dataset):
        yield from islice(dataset, ROWS_READ)
        return
    wanted = {*COLUMNS, "margin", *(name for pair in SCORES for name in pair)}
    columns = dataset.select_columns([name for name in dataset.column_names if name in wanted])
    for batch in columns.iter(1000):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _check_types(row: dict, place: str) -> None:
    kinds = {column: _kind(row[column]) for column in COLUMNS if column in row}
    for column, kind in kinds.items():
        if kind is None:
            found = type(row[column]).__name__
            raise InputError(f"{place}'{column}' is {found}; give a text or a list of messages")
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"'{column}' is {kind}" for column, kind in kinds.items())
        raise InputError(f"{place}{listed}; give all columns in one form")
    for column, kind in kinds.items():
        for message in row[column] if kind == "messages" else ():
            if not isinstance(message, dict) or not message.get("role") or "content" not in message:
                raise InputError(f"{place}'{column}' has a message without 'role' or 'content': {str(message)[:60]}")


def _kind(value) -> str | None:
    return {str: "text", list: "messages"}.get(type(value))


def _check_answers(row: dict, place: str) -> None:
    if row["chosen"] == row["rejected"]:
        raise InputError(f"{place}'chosen' and 'rejected' are the same; leave such pairs out")
    for column in SIDES:
        answer = row[column]
        if isinstance(answer, str):
            text = answer
        else:
            text = (answer[-1]["content"] or answer[-1].get("tool_calls") or "") if answer else ""
            if answer and answer[-1]["role"] != "assistant":
                raise InputError(
                    f"{place}'{column}' ends with a message of role '{answer[-1]['role']}'; it must be the "
                    "assistant's: are the columns swapped, or is a role misnamed?"
                )
        if not text or (isinstance(text, str) and not text.strip()):
            raise InputError(f"{place}'{column}' is empty; leave such pairs out")
    margin = row.get("margin")
    if margin is not None and margin < 0:
        raise InputError(f"{place}'margin' is {margin}, by which the rejected answer is the better one; swap the two")


def _check_prompt(row: dict, place: str) -> None:
    prompt = row.get("prompt")
    if prompt is None:
        if _common_beginning(row["chosen"], row["rejected"]) == 0:
            raise InputError(
                f"{place}'chosen' and 'rejected' do not begin alike, and there is no column 'prompt'; give one, or "
                "answers that begin with their prompt"
            )
        return
    if isinstance(prompt, list) and prompt and prompt[-1]["role"] == "assistant":
        raise InputError(
            f"{place}'prompt' ends with the assistant's message; it must end with whom the assistant answers: are the "
            "columns swapped?"
        )
    # A prompt of a word or two may well begin the answer too.
    long_enough = len(prompt) > (20 if isinstance(prompt, str) else 0)
    if long_enough and all(row[side][: len(prompt)] == prompt for side in SIDES):
        raise InputError(
            f"{place}'chosen' and 'rejected' begin with the prompt, which would be read twice; remove the column "
            "'prompt', or the prompt from the answers"
        )


def _common_beginning(a, b) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
