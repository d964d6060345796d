"""Answers that are kept: a killed run goes on to the same end, and nothing is asked twice."""

import pytest

import hfcourse.evaluation.answering as answering
from hfcourse.evaluation.answering import answer_all

PROMPTS = ["The red fox", "Mara lives in", "Two", "What is the colour of the door? The door is", "An apple"]


@pytest.fixture
def ask(tiny_llama, tiny_tokenizer, tmp_path):
    def ask(cache="answers.jsonl", seed=0, model_seed=0, **settings):
        options = dict(num_samples=3, max_new_tokens=5, batch_size=4) | settings
        return answer_all(tiny_llama(model_seed), tiny_tokenizer, PROMPTS, tmp_path / cache, seed=seed, **options)

    return ask


@pytest.fixture
def asked(monkeypatch):
    """How many prompts each call of the model had; `fails_after` kills the run after so many calls."""

    class Asked(list):
        fails_after = None

    sizes, generate = Asked(), answering.generate

    def counting(model, tokenizer, prompts, *arguments):
        if len(sizes) == sizes.fails_after:
            raise KeyboardInterrupt
        sizes.append(len(prompts))
        return generate(model, tokenizer, prompts, *arguments)

    monkeypatch.setattr(answering, "generate", counting)
    return sizes


def test_a_killed_run_ends_like_one_that_was_not(ask, asked, tmp_path):
    whole, _ = ask("whole.jsonl")
    assert asked == [4, 4, 4, 3]
    asked.clear()
    asked.fails_after = 2
    with pytest.raises(KeyboardInterrupt):
        ask()
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    asked.fails_after = None
    resumed, _ = ask()
    assert asked == [4, 4, 4, 3], "two before the kill, two after it"
    assert resumed == whole
    assert ask()[0] == whole
    assert len(asked) == 4, "the second time nothing is asked"


def test_samples_differ_and_answers_are_in_order(ask, tiny_tokenizer):
    answers, cost = ask()
    for prompt, samples in zip(PROMPTS, answers, strict=True):
        assert [c.prompt_ids for c in samples] == [tiny_tokenizer(prompt)["input_ids"]] * 3
        assert len({tuple(c.ids) for c in samples}) > 1
    assert cost.prompt_tokens == 3 * sum(len(tiny_tokenizer(p)["input_ids"]) for p in PROMPTS)
    assert cost.completion_tokens == sum(len(c.ids) for samples in answers for c in samples)
    assert cost.seconds > 0


@pytest.mark.parametrize("other", [{"seed": 1}, {"model_seed": 1}, {"max_new_tokens": 4}, {"temperature": 0.5}])
def test_other_settings_share_nothing(ask, asked, other):
    first, _ = ask()
    assert ask(**other)[0] != first
    assert len(asked) == 8
    assert ask()[0] == first
    assert len(asked) == 8
