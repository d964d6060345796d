"""Few-shot prompts, word for word."""

import pytest

from hfcourse.errors import InputError
from hfcourse.evaluation.prompting import few_shot_prompts

EXAMPLES = [{"prompt": f"Question: {q}\nOutput:", "completion": f" {a}"} for q, a in ("ab", "cd", "ef", "gh")]


def test_examples_stand_before_the_prompt():
    (shown,) = few_shot_prompts(["Question: x\nOutput:"], EXAMPLES[:1], num_shots=1)
    assert shown == "Question: a\nOutput: b\n\nQuestion: x\nOutput:"


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


def test_too_few_examples():
    with pytest.raises(InputError, match="only 4 examples"):
        few_shot_prompts(["x"], EXAMPLES, num_shots=5)
