"""Bad pairs: one line that names the column and the row and says what to do, before the first step."""

import pytest
from datasets import Dataset, IterableDataset

from hfcourse.errors import InputError
from hfcourse.trainers.preference_checks import check_preferences

GOOD = {"prompt": "Where does Mara live?", "chosen": " In Oakton.", "rejected": " A door."}


def said(text, role="assistant"):
    return [{"role": role, "content": text}]


CHAT = {"prompt": said("Where?", "user"), "chosen": said("Oakton."), "rejected": said("A door.")}
WHOLE = {side: GOOD["prompt"] + GOOD[side] for side in ("chosen", "rejected")}
BAD = {
    "identical": ({**GOOD, "rejected": GOOD["chosen"]}, "row 1: 'chosen' and 'rejected' are the same; leave"),
    "empty": ({**GOOD, "rejected": ""}, "row 1: 'rejected' is empty; leave"),
    "blank": ({**GOOD, "chosen": " \n"}, "row 1: 'chosen' is empty; leave"),
    "none": ({**GOOD, "chosen": None}, "row 1: 'chosen' is NoneType; give a text or a list of messages"),
    "doubled": ({**GOOD, **WHOLE}, "row 1: 'chosen' and 'rejected' begin with the prompt, which would be read twice"),
    "margin": ({**GOOD, "margin": -0.5}, "row 1: 'margin' is -0.5, by which the rejected answer is the better one"),
    "no message": ({**CHAT, "chosen": []}, "row 1: 'chosen' is empty; leave"),
    "empty message": ({**CHAT, "chosen": said("")}, "row 1: 'chosen' is empty; leave"),
    "role": ({**CHAT, "rejected": said("A door.", "user")}, "row 1: 'rejected' ends with a message of role 'user'"),
    "swapped": (
        {**CHAT, "prompt": CHAT["chosen"]},
        "row 1: 'prompt' ends with the assistant's message; .* are the columns swapped",
    ),
    "no role": ({**CHAT, "chosen": [{"role": None, "content": "x"}]}, "row 1: 'chosen' has a message without 'role'"),
    "doubled chat": (
        {"prompt": CHAT["prompt"], **{s: CHAT["prompt"] + CHAT[s] for s in ("chosen", "rejected")}},
        "row 1: 'chosen' and 'rejected' begin with the prompt",
    ),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD)
def test_bad_rows(row, message):
    good = CHAT if isinstance(row["prompt"], list) else {**GOOD, "margin": 1.0}
    rows = [good, {**good, **row}]
    with pytest.raises(InputError, match=f"^train_dataset: {message}"):
        check_preferences(Dataset.from_list(rows), "train_dataset")
    with pytest.raises(InputError, match=f"^train_dataset: {message}"):
        check_preferences(IterableDataset.from_generator(lambda: iter(rows)), "train_dataset")


def test_one_form_for_all_columns():
    with pytest.raises(
        InputError, match="row 0: 'prompt' is text, 'chosen' is messages, 'rejected' is messages; give"
    ):
        check_preferences(Dataset.from_list([{**CHAT, "prompt": "Where?"}]), "train_dataset")


def test_without_a_prompt_the_answers_begin_alike():
    good = {side: GOOD["prompt"] + GOOD[side] for side in ("chosen", "rejected")}
    check_preferences(Dataset.from_list([good]), "train_dataset")
    with pytest.raises(InputError, match="row 1: 'chosen' and 'rejected' do not begin alike, and there is no column"):
        check_preferences(Dataset.from_list([good, {"chosen": "Oakton.", "rejected": "A door."}]), "train_dataset")


def test_scores_tell_of_swapped_columns():
    """One pair against its score may be a matter of taste; most of them are columns that were swapped."""
    rows = [{**GOOD, "score_chosen": float(i), "score_rejected": 2.5} for i in range(6)]
    check_preferences(Dataset.from_list(rows), "train_dataset")
    with pytest.raises(InputError, match="in 3 of 5 rows the rejected answer has the higher score; are the columns"):
        check_preferences(Dataset.from_list(rows[:5]), "train_dataset")


def test_every_row_is_read_and_every_part():
    rows = [{**GOOD, "chosen": f" In Oakton, {i}."} for i in range(2500)]
    check_preferences(Dataset.from_list([*rows, GOOD]), "train_dataset")
    bad = Dataset.from_list([*rows, {**GOOD, "chosen": ""}])
    with pytest.raises(InputError, match="row 2500: 'chosen' is empty"):
        check_preferences(bad, "train_dataset")
    with pytest.raises(InputError, match=r"eval_dataset\[hard\]: row 2500"):
        check_preferences({"easy": Dataset.from_list(rows), "hard": bad}, "eval_dataset")


def test_what_is_fine():
    check_preferences(Dataset.from_list([GOOD]), "train_dataset")
    check_preferences(Dataset.from_list([CHAT]), "train_dataset")
    check_preferences(Dataset.from_list([{**GOOD, "prompt": "In", "chosen": "In a", "rejected": "In b"}]), "x")
    check_preferences(Dataset.from_list([{"chosen_ids": [1], "rejected_ids": [1]}]), "train_dataset")
    tools = [{"role": "assistant", "content": None, "tool_calls": "f(x)"}]
    check_preferences(Dataset.from_list([{**CHAT, "chosen": tools}]), "train_dataset")
