"""Pairs of answers: what is compared, what is left out, and the row that a verdict makes."""

from hfcourse.data.preferences import Answer, compare_all, decide, preference_row

A, B, C, NONE = (Answer(text, f"model {i}") for i, text in enumerate((" Oakton.", " Redford.", " Redford. ", "")))


def test_every_two_different_answers_are_compared_once():
    """Of a, b, b (with a blank more), "" there are six pairs; equal and empty ones fall out, the rest differ."""
    made = compare_all([{"prompt": "Where?"}, {"prompt": "Where?"}], [[A, B, C, NONE], [A, B]])
    assert [{c.a.text, c.b.text} for c in made] == [{A.text, B.text}, {A.text, C.text}]
    assert [c.number for c in made] == [0, 1]
    assert len({c.id for c in made}) == 2


def test_which_answer_is_shown_first_is_chance_and_stays():
    rows = [{"prompt": f"Where {i}?"} for i in range(400)]
    made = compare_all(rows, [[A, B]] * 400, seed=1)
    first = sum(c.a == A for c in made)
    assert 160 <= first <= 240
    assert made == compare_all(rows, [[A, B]] * 400, seed=1)
    assert made != compare_all(rows, [[A, B]] * 400, seed=2)


def test_the_majority_decides():
    votes = lambda *choices: [{"choice": c} for c in choices]  # noqa: E731
    assert decide(votes("a", "b", "a")) == "a"
    assert decide(votes("a", "b", "tie")) == "tie"
    assert decide(votes("b", "skip", "skip")) == "b"
    assert decide(votes("skip")) == decide([]) == "skip"


def test_a_row_says_where_it_comes_from():
    """Two of three for b, P(a) = 0.4 and 0.2 and 0.6: P(b) is 0.6."""
    (comparison,) = compare_all([{"prompt": [{"role": "user", "content": "Where?"}]}], [[A, B]])
    b_is_chosen = [("b", 0.4), ("b", 0.2), ("a", 0.6)]
    verdicts = [{"choice": c, "p_a": p, "annotator": f"person_{i}"} for i, (c, p) in enumerate(b_is_chosen)]
    row = preference_row(comparison, verdicts, seed=7)
    assert row["prompt"] == comparison.row["prompt"]
    assert row["chosen"] == [{"role": "assistant", "content": comparison.b.text}]
    assert row["rejected"] == [{"role": "assistant", "content": comparison.a.text}]
    assert (row["model_chosen"], row["model_rejected"]) == (comparison.b.model, comparison.a.model)
    assert (row["annotator"], row["seed"], row["shown_first"]) == ("person_0+person_1+person_2", 7, "rejected")
    assert row["agreement"] == 2 / 3
    assert abs(row["p_chosen"] - 0.6) < 1e-12
    assert preference_row(comparison, [{"choice": "tie", "annotator": "x"}], 7) is None
