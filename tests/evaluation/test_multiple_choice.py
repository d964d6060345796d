"""Likelihoods of choices against one forward pass each; accuracy by hand."""

import pytest
import torch

from hfcourse.errors import InputError
from hfcourse.evaluation.multiple_choice import choice_logps, hits_of, measure_multiple_choice

PROMPTS = ["What is the colour of the door?", "The red"]
CHOICES = [[" blue", " The red fox"], [" fox", " apples", " river"]]


@torch.no_grad()
def logp_alone(model, tokenizer, prompt, choice):
    prompt_ids, ids = tokenizer(prompt)["input_ids"], tokenizer(choice)["input_ids"]
    logps = model(torch.tensor([prompt_ids + ids])).logits[0].log_softmax(-1)
    return sum(logps[len(prompt_ids) - 1 + t, token].item() for t, token in enumerate(ids))


def test_logps_equal_one_pass_each(tiny_llama, tiny_tokenizer):
    model = tiny_llama(0).eval()
    logps = choice_logps(model, tiny_tokenizer, PROMPTS, CHOICES)
    for prompt, choices, values in zip(PROMPTS, CHOICES, logps, strict=True):
        assert values == pytest.approx([logp_alone(model, tiny_tokenizer, prompt, c) for c in choices], rel=1e-5)


def test_hits_by_hand():
    """Largest score right, largest score wrong, and of two equal scores the first counts."""
    assert hits_of([[-3.0, -1.0], [-1.0, -3.0], [-2.0, -2.0]], [1, 1, 1]) == [1.0, 0.0, 0.0]


def test_accuracy_by_subject(tiny_llama, tiny_tokenizer, monkeypatch):
    """Scores that make questions 1 and 3 right: ⅔; and by character (" ab" is " abcd" at half the length) 1 alone."""
    scores = [[-1.0, -2.0], [-1.0, -2.0], [-2.0, -3.0]]
    monkeypatch.setattr("hfcourse.evaluation.multiple_choice.choice_logps", lambda *a: scores)
    rows = [
        {"question": "q", "choices": ["ab", "cd"], "answer": 0, "subject": "x"},
        {"question": "q", "choices": ["ab", "cd"], "answer": 1, "subject": "x"},
        {"question": "q", "choices": ["ab", "abcd"], "answer": 0, "subject": "y"},
    ]
    measured = measure_multiple_choice(None, None, rows)
    assert measured["accuracy"] == pytest.approx(2 / 3)
    assert measured["accuracy_norm"] == pytest.approx(1 / 3)
    assert measured["subjects"]["x"] == {"accuracy": 0.5, "num_questions": 2}
    assert measured["subjects"]["y"] == {"accuracy": 1.0, "num_questions": 1}


def test_an_empty_choice_is_an_error(tiny_llama, tiny_tokenizer):
    with pytest.raises(InputError, match="no tokens"):
        choice_logps(tiny_llama(0), tiny_tokenizer, ["The"], [["", " fox"]])
