"""Records of answers: gold, proxy, KL and their means, by hand."""

import pytest

from hfcourse.evaluation.generation import Completion
from hfcourse.evaluation.responses import add_gold, add_proxy, records_of, summarize

GOLD = {"answer": "Oakton", "tone": "formal", "length": "one sentence", "candidates": "Oakton|Redford"}
ROW = {"prompt": "Question: Where does Karl live?\nOutput:", "task": "fact", **GOLD}


def answered(text, row=ROW, finished=True):
    return records_of([row], [Completion([1, 2], [3, 4, 5], text, finished)])[0]


def test_gold_reward_and_accuracy_by_hand():
    """Right (+2), formal (+½), one sentence (+½): 3. Another town: -1, +½, +½: 0."""
    records = [
        answered("According to my notes, Karl lives in Oakton."),
        answered("According to my notes, Karl lives in Redford."),
    ]
    add_gold(records)
    assert [r["gold_reward"] for r in records] == [3.0, 0.0]
    assert [r["right"] for r in records] == [True, False]
    summary = summarize(records)
    assert summary["num_prompts"] == 2
    assert (summary["gold_reward"], summary["gold_reward_se"]) == pytest.approx((1.5, 1.5))
    assert (summary["accuracy"], summary["mean_length"], summary["finished"]) == (0.5, 3.0, 1.0)
    assert "proxy_reward" not in summary
    assert "kl" not in summary


def test_rows_without_a_gold_get_none():
    record = answered("Oakton", {"prompt": "Where?"})
    add_gold([record])
    assert "gold_reward" not in record


def test_the_reward_model_reads_the_answer_as_it_was_written(monkeypatch):
    seen = []

    def score(model, tokenizer, prompts, completions, finished, batch_size):
        seen.append((prompts, completions, finished))
        return [0.5]

    monkeypatch.setattr("hfcourse.evaluation.responses.score", score)
    record = answered(" Oakton.", finished=False)
    add_proxy([record], None, None)
    chat = answered("Oakton.", {"prompt": [{"role": "user", "content": "Where?"}]})
    add_proxy([chat], None, None)
    assert seen[0] == ([ROW["prompt"]], [" Oakton."], [False])
    assert seen[1][1] == [[{"role": "assistant", "content": "Oakton."}]]
    assert record["proxy_reward"] == pytest.approx(0.5)
