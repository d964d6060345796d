"""Few-shot prompts word for word, examples by strategy, what answers say, and votes by hand."""

import pytest
from hypothesis import given, settings, strategies as st

from hfcourse.errors import InputError
from hfcourse.evaluation.prompting import (
    accuracy_by_k,
    choose_examples,
    extractor,
    few_shot_chats,
    few_shot_prompts,
)

EXAMPLES = [{"prompt": f"Question: {q}\nOutput:", "completion": f" {a}"} for q, a in ("ab", "cd", "ef", "gh")]


def test_examples_stand_before_the_prompt():
    (shown,) = few_shot_prompts(["Question: x\nOutput:"], EXAMPLES[:1], num_shots=1)
    assert shown == "Question: a\nOutput: b\n\nQuestion: x\nOutput:"
    (shown,) = few_shot_prompts(["Question: x\nOutput:"], EXAMPLES[:1], num_shots=1, instruction="Be short.")
    assert shown == "Be short.\n\nQuestion: a\nOutput: b\n\nQuestion: x\nOutput:"


def test_the_same_as_a_chat():
    (chat,) = few_shot_chats(["Question: x\nOutput:"], EXAMPLES[:1], num_shots=1, instruction="Be short.")
    assert chat == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Question: a\nOutput:"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "Question: x\nOutput:"},
    ]


def test_no_shots_leave_the_prompt_alone():
    assert few_shot_prompts(["x"], EXAMPLES, num_shots=0) == ["x"]


def test_the_seed_and_the_place_decide_and_nothing_repeats():
    prompts = [f"p{i}" for i in range(20)]
    shown = few_shot_prompts(prompts, EXAMPLES, num_shots=3, seed=1)
    assert few_shot_prompts(prompts, EXAMPLES, 3, seed=1) == shown
    assert few_shot_prompts(prompts, EXAMPLES, 3, seed=2) != shown
    assert few_shot_prompts(prompts[:5], EXAMPLES, 3, seed=1) == shown[:5]
    assert len({text.removesuffix(p) for text, p in zip(shown, prompts, strict=True)}) > 5
    assert all(len(set(text.split("\n\n"))) == 4 for text in shown)


def test_similar_examples_the_nearest_last():
    examples = [{"prompt": text, "completion": ""} for text in ("the red fox", "a blue door", "the blue door is old")]
    assert choose_examples(["which blue door?", "one red fox"], examples, 2, "similar") == [[2, 1], [1, 0]]
    assert choose_examples(["which blue door?"], examples, 1, "similar") == [[1]]


@given(st.integers(1, 8), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_balanced_examples(num_shots, seed):
    """Five of one answer and three of another: as many of each as there can be, none twice."""
    examples = [{"prompt": f"q{i}", "completion": " yes" if i < 5 else " no"} for i in range(8)]
    for chosen in choose_examples(["p"] * 6, examples, num_shots, "balanced", seed):
        assert len(set(chosen)) == num_shots
        no = sum(i >= 5 for i in chosen)
        assert abs(num_shots - 2 * no) <= 1 or no == 3


def test_balanced_by_a_label():
    examples = [{"prompt": f"q{i}", "completion": f" {i}", "label": i % 2} for i in range(6)]
    for chosen in choose_examples(["p"] * 9, examples, 2, "balanced"):
        assert {examples[i]["label"] for i in chosen} == {0, 1}


def test_too_few_examples():
    with pytest.raises(InputError, match="only 4 examples"):
        few_shot_prompts(["x"], EXAMPLES, num_shots=5)
    with pytest.raises(InputError, match="choose random, similar, balanced"):
        choose_examples(["x"], EXAMPLES, 1, "best")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("number", "2 + 3 is 5. The answer is $1,250.50.", "1250.5"),
        ("number", "#### -72", "-72"),
        ("number", "72.0", "72"),
        ("number", "no idea", ""),
        ("letter", " B. Because A is wrong", "B"),
        ("letter", "I think that it is (C), not (a).", "C"),
        ("letter", "I don't know", ""),
        ("line", "\n Yes. \nQuestion:", "Yes."),
        (r"answer is (\w+)", "answer is no; the answer is yes", "yes"),
    ],
)
def test_what_an_answer_says(name, text, said):
    assert extractor(name)(text) == said


def test_no_regular_expression():
    with pytest.raises(InputError, match="nor a regular expression"):
        extractor("(")


def test_votes_by_hand():
    """Says a, a, b; right is a. One sample: 2/3. Two: {a,a} 1, twice {a,b} a tie, ½: 2/3. Three: a has two of them: 1.

    Where right is b: 1/3, (0 + ½ + ½)/3 = 1/3, 0. An answer that says nothing has no vote: "", a, a votes a as soon as
    one a is there: 2/3, 1, 1.
    """
    by_k = accuracy_by_k([["a", "a", "b"], ["a", "a", "b"], ["", "a", "a"], ["", "", ""]], ["a", "b", "a", "a"])
    assert by_k[1] == pytest.approx([2 / 3, 1 / 3, 2 / 3, 0])
    assert by_k[2] == pytest.approx([2 / 3, 1 / 3, 1, 0])
    assert by_k[3] == pytest.approx([1, 0, 1, 0])


def test_many_samples_are_subsampled():
    """Of 20 samples there are 184,756 subsets of ten; 500 drawn ones, and all twenty exactly."""
    by_k = accuracy_by_k([["a"] * 11 + ["b"] * 9], ["a"])
    assert by_k[20] == [1.0]
    assert by_k[1] == pytest.approx([11 / 20])
    assert 0.55 < by_k[10][0] < 0.85
