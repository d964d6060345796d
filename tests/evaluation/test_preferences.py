"""Accuracy of a reward model on pairs, by hand."""

import pytest

from hfcourse.errors import InputError
from hfcourse.evaluation.preferences import measure_reward_model


def test_a_tie_is_no_hit(monkeypatch):
    """Rewards are the texts' lengths: margins 2, -1, 0, so 1 of 3 is right and the mean margin is ⅓."""
    monkeypatch.setattr(
        "hfcourse.evaluation.preferences.score",
        lambda model, tokenizer, prompts, completions, batch_size: [float(len(c)) for c in completions],
    )
    rows = [
        {"prompt": "p", "chosen": "abc", "rejected": "a"},
        {"prompt": "p", "chosen": "a", "rejected": "ab"},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
    ]
    measured = measure_reward_model(None, None, rows)
    assert measured["accuracy"] == pytest.approx(1 / 3)
    assert measured["margin"] == pytest.approx(1 / 3)
    assert measured["accuracy_low"] < 1 / 3 < measured["accuracy_high"]
    assert measured["num_pairs"] == 3


def test_no_pairs():
    with pytest.raises(InputError, match="no pairs"):
        measure_reward_model(None, None, [])
