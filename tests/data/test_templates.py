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
        (
            "chatml",
            ROW,
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nThe door is blue.\nWhat colour?<|im_end|>\n"
            "<|im_start|>assistant\n",
            "Blue.<|im_end|>",
        ),
        (
            "llama3",
            {"instruction": "Be kind.", "output": "Yes."},
            "<|start_header_id|>user<|end_header_id|>\n\nBe kind.<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "Yes.<|eot_id|>",
        ),
        ("plain_chat", ROW, "Be kind.\n\nUser: The door is blue.\nWhat colour?\nAssistant:", " Blue."),
        ("plain", ROW, "Be kind.\nThe door is blue.\nWhat colour?\n", "Blue."),
        ("plain", {"input": "translate: door", "target": "dor"}, "translate: door\n", "dor"),
        (
            "chain_of_thought",
            {"question": "Two and three?", "answer": "2 + 3 = <<2+3=5>>5.\n#### 5"},
            "Question: Two and three?\nAnswer: Let's think step by step.",
            " 2 + 3 = 5. The answer is 5.",
        ),
        (
            "multiple_choice",
            {"question": "What colour?", "choices": ["Red.", "Blue."], "answer": 1},
            "What colour?\nA. Red.\nB. Blue.\nAnswer:",
            " B",
        ),
    ],
)
def test_letter_for_letter(name, row, prompt, completion):
    assert PromptTemplate(name)(row) == {"prompt": prompt, "completion": completion}
    assert PromptTemplate(name, eos_token="<|endoftext|>").completion(row) == f"{completion}<|endoftext|>"


OPTIONS = {**ROW, "instruction": "", "options": ["Red.", "Blue."]}
LISTED = "\nOPTIONS:\n- Red.\n- Blue.\n"


def phrasings(name, row):
    """Every (prompt, completion) that a template may draw for a row."""
    drawn = (PromptTemplate(name)(row, i) for i in range(200))
    return {(texts["prompt"], texts["completion"]) for texts in drawn}


def test_flan_has_several_phrasings_with_options_and_one_inverted():
    assert phrasings("flan", OPTIONS) == {
        (f"The door is blue.\nWhat colour?{LISTED}\nAnswer:", " Blue."),
        (f"The door is blue.\nWhat colour?\n{LISTED}\nA:", " Blue."),
        (f"Read this: The door is blue.\n\nQuestion: What colour?{LISTED}\nWhat is the answer?", " Blue."),
        (f"Solve the task.\nThe door is blue.\nWhat colour?{LISTED}\nThe answer is:", " Blue."),
        ('The door is blue.\n\nWrite a question whose answer is "Blue.".\nQuestion:', " What colour?"),
    }
    assert len(phrasings("flan", ROW)) == 5


def test_inverted_phrasings_are_left_out_of_a_test():
    """Without an output there is nothing to invert; with `inverted=False` nobody asks for it."""
    asked = {name: ROW[name] for name in ("instruction", "question")}
    prompts = [PromptTemplate("flan").prompt(asked, i) for i in range(50)]
    prompts += [PromptTemplate("flan", inverted=False).prompt(ROW, i) for i in range(50)]
    assert not any("Write a question" in prompt for prompt in prompts)
    rows = apply_template(Dataset.from_list([ROW] * 50), "flan", inverted=False)
    assert set(rows["completion"]) == {" Blue."}


def test_t0_with_answer_choices():
    assert phrasings("t0", OPTIONS) == {
        ("What colour?\nThe door is blue.\nChoose one: Red., Blue..\n", "Blue."),
        ('Given the text "The door is blue.", answer this: What colour?\n', "Blue."),
        ("The door is blue.\nI want to know: What colour?\nA) Red.\nB) Blue.\n", "Blue."),
    }


def test_the_number_of_a_row_decides_its_phrasing():
    rows = apply_template(Dataset.from_list([ROW] * 20), "flan", seed=1)
    stream = apply_template(Dataset.from_list([ROW] * 20).to_iterable_dataset(), "flan", seed=1)
    assert [row["prompt"] for row in stream] == rows["prompt"][:]
    assert apply_template(Dataset.from_list([ROW] * 20), "flan", seed=2)["prompt"][:] != rows["prompt"][:]
    assert len(set(rows["prompt"])) > 3


def test_multiple_choice_rows_have_their_answer_by_number():
    row = {"question": "What colour?", "choices": ["Red.", "Blue."], "answer": 1}
    assert PromptTemplate("four_part_en")(row) == {"prompt": "Question: What colour?\nOutput:", "completion": " Blue."}
    assert LISTED in PromptTemplate("flan", inverted=False).prompt(row)


def test_promptsources_own_files_are_read(tmp_path):
    """Its tags, its answer choices over columns of any name, and a separator that somebody wrote into a row."""
    path = tmp_path / "templates.yaml"
    path.write_text(
        "dataset: snli\ntemplates:\n"
        "  5a1f: !Template\n    answer_choices: Yes ||| Maybe ||| No\n    id: 5a1f\n"
        "    jinja: 'Does \"{{premise}}\" imply it? ||| {{answer_choices[label]}}'\n"
        "    metadata: !TemplateMetadata\n      original_task: true\n    name: implies\n    reference: ''\n"
    )
    row = {"premise": "a ||| b", "label": 2}
    assert PromptTemplate(str(path))({**row, "output": ""}) == {
        "prompt": 'Does "a ||| b" imply it?\n',
        "completion": "No",
    }
    (tmp_path / "empty.yaml").write_text("templates: {}\n")
    with pytest.raises(InputError, match=r"has no entry with '\|\|\|'"):
        PromptTemplate(str(tmp_path / "empty.yaml"))


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
    with pytest.raises(
        InputError, match="there is no 'four_parts'; choose alpaca, chain_of_thought, chatml, flan, four_part_en"
    ):
        PromptTemplate("four_parts")
    with pytest.raises(InputError, match="only body; rename one"):
        apply_template(Dataset.from_list([{"body": "x"}]))
    with pytest.raises(InputError, match="is empty"):
        apply_template(Dataset.from_dict({"instruction": []}))
