"""Labelled pairs: who chose, what is left out, and what can be expected, by hand."""

import pytest

from hfcourse.data.preferences import describe_labels, label_by_annotators
from hfcourse.world import Annotators

ROW = {
    **{"prompt": "Question: Where does Karl live?\nOutput:", "instruction": "", "context": "", "question": "Where?"},
    **{"answer": "Oakton", "tone": "formal", "length": "one sentence", "candidates": "Oakton|Redford"},
}
RIGHT, WRONG = " According to my notes, Karl lives in Oakton.", " Karl lives in Redford."


def test_every_two_different_answers_are_compared_by_people_in_turn():
    """Of a, b, b, "" there are six pairs; equal and empty ones fall out and leave a-b twice."""
    people = Annotators(num_annotators=3, seed=0)
    pairs = label_by_annotators(people, [ROW, ROW], [[RIGHT, WRONG, WRONG, ""], [RIGHT, WRONG]], "a model", seed=5)
    assert [pair["annotator"] for pair in pairs] == [0, 1, 2]
    for pair in pairs:
        assert {pair["chosen"], pair["rejected"]} == {RIGHT, WRONG}
        assert (pair["prompt"], pair["model"], pair["seed"]) == (ROW["prompt"], "a model", 5)
        assert pair["p_chosen"] == people.preference(ROW, pair["chosen"], pair["rejected"])
        assert people.compare(ROW, RIGHT, WRONG, pair["annotator"]) == (pair["chosen"] == RIGHT)
    right_first = next(pair for pair in pairs if pair["chosen"] == RIGHT)
    assert (right_first["gold_chosen"], right_first["gold_rejected"]) == (3.0, -0.5)


def test_description_by_hand():
    """p = 0.9, 0.4: Bayes (0.9 + 0.6)/2; agreement (0.81 + 0.01 + 0.16 + 0.36)/2; the gold's tie does not count."""
    pairs = [
        {"p_chosen": 0.9, "gold_chosen": 3.0, "gold_rejected": 1.0},
        {"p_chosen": 0.4, "gold_chosen": 1.0, "gold_rejected": 1.0},
    ]
    described = describe_labels(pairs)
    assert described["num_pairs"] == 2
    assert described["bayes_accuracy"] == pytest.approx(0.75)
    assert described["agreement"] == pytest.approx(0.67)
    assert described["agrees_with_gold"] == 1.0


def test_the_best_guess_cannot_beat_bayes():
    """4000 comparisons of one pair by strangers: always guessing the likelier answer is right p of the time."""
    people = Annotators(num_annotators=500, seed=1)
    pairs = label_by_annotators(people, [ROW] * 4000, [[RIGHT, " Karl lives in Oakton."]] * 4000, "m", 0)
    share = sum(pair["chosen"] == RIGHT for pair in pairs) / len(pairs)
    bayes = describe_labels(pairs[:1])["bayes_accuracy"]
    assert max(share, 1 - share) == pytest.approx(bayes, abs=4 * (0.25 / 4000) ** 0.5)
