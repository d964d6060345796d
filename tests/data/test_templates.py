"""The templates letter for letter: a space too many at the seam and the model learns another language."""

import pytest
from datasets import Dataset

from hfcourse.data import PromptTemplate, apply_template
from hfcourse.errors import InputError

ROW = {"instruction": "Be kind.", "context": "The door is blue.", "question": "What colour?", "output": "Blue."}
ALPACA = {"instruction": "Name the colour.", "input": "the door", "output": "Blue."}


@pytest.mark.parametrize(
    ("name", "row", "prompt", "completion"),
    [
        (
            "four_part_en",
            ROW,
            "Instruction: Be kind.\nContext: The door is blue.\nQuestion: What colour?\nOutput:",
            " Blue.",
        ),
        ("four_part_en", {**ROW, "context": ""}, "Instruction: Be kind.\nQuestion: What colour?\nOutput:", " Blue."),
        ("four_part_en", ALPACA, "Instruction: Name the colour.\nQuestion: the door\nOutput:", " Blue."),
        ("four_part_en", {**ALPACA, "input": ""}, "Instruction: Name the colour.\nOutput:", " Blue."),
        (
            "four_part_en",
            {"instruction": "Be kind.", "question": "What colour?", "input": "The door is blue.", "output": "Blue."},
            "Instruction: Be kind.\nContext: The door is blue.\nQuestion: What colour?\nOutput:",
            " Blue.",
        ),
        (
            "four_part_zh",
            {
                "instruction": "请友好地回答。",
                "context": "门是蓝色的。",
                "question": "门是什么颜色？",
                "output": "蓝色。",
            },
            "指令：请友好地回答。\n上下文：门是蓝色的。\n问题：门是什么颜色？\n输出：",
            "蓝色。",
        ),
        (
            "alpaca",
            ALPACA,
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n### Instruction:\nName the colour.\n\n"
            "### Input:\nthe door\n\n### Response:",
            "Blue.",
        ),
        (
            "alpaca",
            {**ALPACA, "input": ""},
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\nName the colour.\n\n### Response:",
            "Blue.",
        ),
        ("plain", ROW, "Be kind.\nThe door is blue.\nWhat colour?\n", "Blue."),
        ("plain", {"input": "translate: door", "target": "dor"}, "translate: door\n", "dor"),
    ],
)
def test_letter_for_letter(name, row, prompt, completion):
    assert PromptTemplate(name)(row) == {"prompt": prompt, "completion": completion}
    assert PromptTemplate(name, eos_token="<|endoftext|>").completion(row) == f"{completion}<|endoftext|>"


@pytest.mark.parametrize("streaming", [False, True])
def test_the_other_columns_stay(streaming):
    dataset = Dataset.from_list([{**ROW, "tone": "kind"}])
    (row,) = apply_template(dataset.to_iterable_dataset() if streaming else dataset)
    assert row["tone"] == "kind"
    assert row["prompt"].endswith("Output:")


def test_no_output_no_completion():
    (row,) = apply_template(Dataset.from_list([{name: ROW[name] for name in ("instruction", "question")}]))
    assert "completion" not in row


def test_what_people_wrote_is_never_a_template():
    row = {**ROW, "question": "{{ output }} {% if %} {# gone #}"}
    assert "Question: {{ output }} {% if %} {# gone #}\nOutput:" in PromptTemplate().prompt(row)


def test_a_template_of_ones_own(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text(
        "{% block prompt %}Q: {{ question }}\nA:{% endblock %}{% block completion %} {{ output }}{% endblock %}"
    )
    assert PromptTemplate(str(path))(ROW) == {"prompt": "Q: What colour?\nA:", "completion": " Blue."}
    half = tmp_path / "half.jinja"
    half.write_text("{% block prompt %}{% endblock %}")
    with pytest.raises(InputError, match=r"has no \{% block completion %}"):
        PromptTemplate(str(half))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="there is no 'four_parts'; choose alpaca, four_part_en, four_part_zh, plain"):
        PromptTemplate("four_parts")
    with pytest.raises(InputError, match="only body; rename one"):
        apply_template(Dataset.from_list([{"body": "x"}]))
    with pytest.raises(InputError, match="is empty"):
        apply_template(Dataset.from_dict({"instruction": []}))
