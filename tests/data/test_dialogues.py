import gzip
import json

import pytest
from datasets import Dataset

from hfcourse.data import apply_template, load_dataset
from hfcourse.data.dialogues import comparisons_from_dialogues, is_comparison, parse_dialogue
from hfcourse.errors import InputError

QUESTION = "\n\nHuman: What is a cat?\n\nAssistant: An animal.\n\nHuman: A pet: or not?\n\nAssistant:"


def test_messages_alternate_and_lose_their_outer_white_space():
    messages = parse_dialogue("\n\nHuman: a\n\nb\n\nHuman: c \n\nAssistant: d: e")
    assert messages == [{"role": "user", "content": "a\n\nb\n\nc"}, {"role": "assistant", "content": "d: e"}]


def test_pairs_become_prompt_chosen_and_rejected():
    rows = [{"chosen": f"{QUESTION} Yes.", "rejected": f"{QUESTION} No."}]
    (row,) = comparisons_from_dialogues(Dataset.from_list(rows))
    assert [message["role"] for message in row["prompt"]] == ["user", "assistant", "user"]
    assert row["prompt"][-1]["content"] == "A pet: or not?"
    assert row["chosen"] == [{"role": "assistant", "content": "Yes."}]
    assert row["rejected"] == [{"role": "assistant", "content": "No."}]
    assert set(row) == {"prompt", "chosen", "rejected"}


@pytest.mark.parametrize(
    "rejected",
    [
        f"{QUESTION} Yes.",  # equal
        f"{QUESTION} ",  # an empty answer
        "\n\nHuman: What is a dog?\n\nAssistant: An animal.",  # another question
        "\n\nHuman: What is a cat?\n\nAssistant: An animal.\n\nHuman: A pet: or not?",  # no answer
    ],
)
def test_pairs_that_compare_no_two_answers_are_left_out(rejected):
    row = {"chosen": f"{QUESTION} Yes.", "rejected": rejected}
    assert not is_comparison(row)
    good = {"chosen": f"{QUESTION} Yes.", "rejected": f"{QUESTION} No."}
    assert len(comparisons_from_dialogues(Dataset.from_list([good, row]))) == 1


def test_other_formats_are_refused():
    with pytest.raises(InputError, match="must begin with"):
        parse_dialogue("Human: hello")
    with pytest.raises(InputError, match="columns 'chosen' and 'rejected'"):
        comparisons_from_dialogues(Dataset.from_list([{"prompt": "a", "chosen": "b"}]))


def test_a_gzipped_file_of_pairs_becomes_messages_by_its_template(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    row = {"chosen": f"{QUESTION} Yes.", "rejected": f"{QUESTION} No."}
    path.write_bytes(gzip.compress("\n".join([json.dumps(row)] * 3).encode()))
    held_out = apply_template(load_dataset(str(path), split="train[2:]"), "hh_rlhf")
    assert len(held_out) == 1
    assert held_out[0]["chosen"] == [{"role": "assistant", "content": "Yes."}]
