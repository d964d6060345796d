"""Anthropic's HH-RLHF pairs, two dialogues in one string each, as the chat messages that trainers read."""

import re

from datasets import Dataset, IterableDataset

from hfcourse.errors import InputError

TURN = re.compile(r"\n\n(Human|Assistant):")
ROLE_OF = {"Human": "user", "Assistant": "assistant"}


def parse_dialogue(text: str) -> list[dict[str, str]]:
    r"""Messages of a dialogue written as "\n\nHuman: … \n\nAssistant: …". Neighbours of one role become one message.

    Chat templates expect the roles to alternate, so "\n\nHuman: a\n\nHuman: b" is one message "a\n\nb".

    Raises:
        InputError: the text does not begin with "\n\nHuman:".
    """
    before, *rest = TURN.split(text)
    if before.strip() or not rest or rest[0] != "Human":
        raise InputError("a dialogue must begin with '\\n\\nHuman:'; is this HH-RLHF's format?")
    messages = []
    for speaker, content in zip(rest[::2], rest[1::2], strict=True):
        role, content = ROLE_OF[speaker], content.strip()
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{content}"
        else:
            messages.append({"role": role, "content": content})
    return messages


def is_comparison(row: dict) -> bool:
    """Whether the two dialogues differ in their last answer alone, and neither answer is empty.

    A pair whose questions differ as well compares more than the answers (2 of the 1,812 in the harmless test file).
    """
    chosen, rejected = parse_dialogue(row["chosen"]), parse_dialogue(row["rejected"])
    answers = chosen[-1], rejected[-1]
    return (
        chosen[:-1] == rejected[:-1]
        and chosen != rejected
        and all(answer["role"] == "assistant" and answer["content"] for answer in answers)
    )


def comparison_from_dialogues(row: dict) -> dict[str, list[dict[str, str]]]:
    """{"prompt", "chosen", "rejected"} as lists of messages, the prompt being all but the last answer."""
    *prompt, chosen = parse_dialogue(row["chosen"])
    return {"prompt": prompt, "chosen": [chosen], "rejected": [parse_dialogue(row["rejected"])[-1]]}


def comparisons_from_dialogues(dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Columns prompt, chosen, rejected (messages) from chosen and rejected (strings), without what compares nothing.

    Raises:
        InputError: the columns are missing, or hold something else than dialogues in strings.
    """
    first = next(iter(dataset), {})
    if not all(isinstance(first.get(column), str) for column in ("chosen", "rejected")):
        raise InputError(
            "template 'hh_rlhf': needs the columns 'chosen' and 'rejected' with a dialogue in a string each"
        )
    parse_dialogue(first["chosen"])
    return dataset.filter(is_comparison).map(comparison_from_dialogues, remove_columns=list(first))
