"""Each annotator on answers whose better one is known; the journal; the report."""

import json
import math

import pytest
import torch
from transformers import LlamaForSequenceClassification

from hfcourse.annotation import judge as judge_module
from hfcourse.annotation.aspects import AspectRater, read_rating
from hfcourse.annotation.journal import Journal, StopLabelling, label
from hfcourse.annotation.judge import LLMJudge, read_verdict
from hfcourse.annotation.people import WorldPeople
from hfcourse.annotation.report import describe
from hfcourse.annotation.scorers import (
    ScoreAnnotator,
    likelihood_annotator,
    rated_answers,
    reward_model_annotator,
)
from hfcourse.annotation.terminal import TerminalAnnotator
from hfcourse.data.preferences import Answer, compare_all
from hfcourse.errors import InputError
from hfcourse.models.reward_model import score
from hfcourse.world import Annotators

ROW = {
    **{"prompt": "Question: Where does Karl live?\nOutput:", "instruction": "", "context": "", "question": "Where?"},
    **{"answer": "Oakton", "tone": "formal", "length": "one sentence", "candidates": "Oakton|Redford"},
}
RIGHT = Answer(" According to my notes, Karl lives in Oakton.", "m1")
WRONG = Answer(" Karl lives in Redford.", "m2")


def many(n, right=RIGHT, wrong=WRONG):
    rows = [{**ROW, "prompt": f"{i} {ROW['prompt']}", "question": f"Where, {i}?"} for i in range(n)]
    return compare_all(rows, [[right, wrong]] * n)


def is_right(comparison, verdict):
    return (comparison.a == RIGHT) == (verdict["choice"] == "a")


def test_people_judge_in_turn_and_as_the_pool_does():
    pool = Annotators(3, 0)
    comparisons = many(6)
    verdicts = WorldPeople(pool, labels_per_pair=2)(comparisons)
    assert [[v["annotator"] for v in of_one] for of_one in verdicts[:3]] == [
        ["person_0", "person_1"],
        ["person_2", "person_0"],
        ["person_1", "person_2"],
    ]
    for c, of_one in zip(comparisons, verdicts, strict=True):
        for v in of_one:
            person = int(v["annotator"][-1])
            assert (v["choice"] == "a") == pool.compare(c.row, c.a.text, c.b.text, person)
            assert v["p_a"] == pool.preference(c.row, c.a.text, c.b.text)


def test_people_who_do_not_read_show_in_the_report():
    """A position bias of 0.4: first chosen 0.4 + 0.6 · ½ = 0.7 of the time."""
    comparisons = many(600)
    for bias, expected in ((0.0, 0.5), (0.4, 0.7)):
        people = WorldPeople(Annotators(20, 0), position_bias=bias)
        verdicts = {c.id: v for c, v in zip(comparisons, people(comparisons), strict=True)}
        report = describe(comparisons, verdicts)
        assert report["position_bias"] == pytest.approx(expected, abs=0.07)
        assert report["position_bias_low"] < report["position_bias"] < report["position_bias_high"]


def test_a_difference_that_nobody_sees_is_a_tie():
    ties = WorldPeople(Annotators(3, 0), tie_below=1e9)(many(2))
    assert [of_one[0]["choice"] for of_one in ties] == ["tie", "tie"]


def test_report_by_hand():
    """Four pairs of the same two answers; two judges each: aa, ab, bb, a-skip in terms of right and wrong."""
    comparisons = many(4)

    def verdict(c, right, who):
        choice = "skip" if right is None else "a" if (c.a == RIGHT) == right else "b"
        return {"annotator": who, "choice": choice}

    votes = [(True, True), (True, False), (False, False), (True, None)]
    verdicts = {
        c.id: [verdict(c, right, who) for right, who in zip(pair, "xy", strict=True)]
        for c, pair in zip(comparisons, votes, strict=True)
    }
    report = describe(comparisons, verdicts)
    assert (report["num_labelled"], report["num_labels"]) == (4, 8)
    assert (report["num_pairs"], report["num_ties"], report["num_skipped"]) == (3, 1, 0)
    assert report["gold_accuracy"] == pytest.approx(2 / 3)
    assert report["length_bias"] == pytest.approx(2 / 3), "the right answer is the longer"
    assert {"fleiss_kappa", "cohens_kappa", "gold_kappa"} <= report.keys()
    assert "bayes_accuracy" not in report
    assert "flip_rate" not in report


class Letters:
    """Stands in for the model's log-probs: the first letter with probability p, whatever is shown."""

    def __init__(self, p_first, right_bonus=0.0):
        self.p_first, self.right_bonus = p_first, right_bonus

    def __call__(self, model, tokenizer, prompts, choices):
        logits = [math.log(self.p_first / (1 - self.p_first)) for _ in prompts]
        signs = [1 if p.index(RIGHT.text.strip()) < p.index(WRONG.text.strip()) else -1 for p in prompts]
        margins = [z + s * self.right_bonus for z, s in zip(logits, signs, strict=True)]
        return [[-math.log1p(math.exp(-m)), -math.log1p(math.exp(m))] for m in margins]


@pytest.mark.parametrize(
    ("letters", "flip_rate", "position_bias", "num_pairs", "gold_accuracy"),
    [
        (Letters(0.9), 1, 1, 0, None),  # always the first: every verdict falls with the swap
        (Letters(0.5, 2.0), 0, 0.5, 20, 1),  # reads: no swap changes it
        (Letters(0.3, 2.0), 0, 0.5, 20, 1),  # reads, and likes the second a little
        (Letters(0.05, 2.0), 1, 0, 0, None),  # reads, and likes the second too much
    ],
)
def test_a_judge_is_asked_in_both_orders(
    monkeypatch, tiny_tokenizer, letters, flip_rate, position_bias, num_pairs, gold_accuracy
):
    monkeypatch.setattr(judge_module, "choice_logps", letters)
    comparisons = many(20)
    judged = LLMJudge(None, tiny_tokenizer, "judge")(comparisons)
    report = describe(comparisons, {c.id: v for c, v in zip(comparisons, judged, strict=True)})
    assert report["flip_rate"] == flip_rate
    assert report["position_bias"] == position_bias
    assert report["num_pairs"] == num_pairs
    assert report.get("gold_accuracy") == gold_accuracy
    bias = letters.right_bonus
    expected = (
        sum(1 / (1 + math.exp(-(bias + s * math.log(letters.p_first / (1 - letters.p_first))))) for s in (1, -1)) / 2
    )
    p_right = [v[0]["p_a"] if c.a == RIGHT else 1 - v[0]["p_a"] for c, v in zip(comparisons, judged, strict=True)]
    assert p_right == pytest.approx([expected] * 20)


def test_a_judge_of_a_real_model_reads_your_constitution(tiny_llama, tiny_tokenizer):
    """Letters by log-prob, from the model itself; another constitution is another question."""
    comparisons = many(3)
    model = tiny_llama(0, max_position_embeddings=1024).eval()
    mild = LLMJudge(model, tiny_tokenizer, "m")(comparisons)
    strict = LLMJudge(model, tiny_tokenizer, "m", constitution="Prefer tea.")(comparisons)
    assert all(0 < v[0]["p_a"] < 1 for v in mild)
    assert [v[0]["p_a"] for v in mild] != [v[0]["p_a"] for v in strict]
    assert "Prefer tea." in LLMJudge(model, tiny_tokenizer, "m", constitution="Prefer tea.")._ask("p", "x", "y")
    ties = LLMJudge(model, tiny_tokenizer, "m", tie_below=0.6)(comparisons)
    assert {v[0]["choice"] for v in ties} == {"tie"}


def test_a_judge_that_writes(monkeypatch, tiny_tokenizer):
    """It explains, and says [[A]] of whichever order has the right answer first; the rationale is kept."""

    def generate(model, tokenizer, prompts, *args, **kwargs):
        found = [p.index(RIGHT.text.strip()) < p.index(WRONG.text.strip()) for p in prompts]
        texts = [f"[[C]]? No: it is right. {'[[A]]' if first else '[[B]]'}" for first in found]
        return [type("Written", (), {"text": text}) for text in texts]

    monkeypatch.setattr(judge_module, "generate", generate)
    comparisons = many(4)
    judged = LLMJudge(None, tiny_tokenizer, "judge", verdict="text")(comparisons)
    assert all(is_right(c, v[0]) for c, v in zip(comparisons, judged, strict=True))
    assert judged[0][0]["rationale"] == "[[C]]? No: it is right."
    monkeypatch.setattr(
        judge_module, "generate", lambda m, t, prompts, *a, **k: [type("W", (), {"text": "Hm."})] * len(prompts)
    )
    assert LLMJudge(None, tiny_tokenizer, "judge", verdict="text")(comparisons)[0][0]["choice"] == "skip"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("B is wrong. [[A]]", ("A", 1.0, "B is wrong.")),
        ("[[ C ]]", ("C", 0.5, "")),
        ("A, I think", ("?", 0.5, "A, I think")),
    ],
)
def test_reading_a_verdict(text, verdict):
    assert read_verdict(text) == verdict


def test_aspects_in_ultrafeedbacks_shape(tiny_llama, tiny_tokenizer):
    rater = AspectRater(tiny_llama(0, max_position_embeddings=1024).eval(), tiny_tokenizer)
    rated = rater({"prompt": "Where is Mara?"}, [RIGHT, WRONG])
    assert rated["instruction"] == "Where is Mara?"
    assert [c["model"] for c in rated["completions"]] == rated["models"] == ["m1", "m2"]
    for completion in rated["completions"]:
        ratings = [a["Rating"] for a in completion["annotations"].values()]
        assert set(completion["annotations"]) == {"instruction_following", "truthfulness", "honesty", "helpfulness"}
        assert all(1 <= r <= 5 for r in ratings)
        assert completion["overall_score"] == pytest.approx(sum(ratings) / 4)
    rows, answers, annotator = rated_answers([rated], "overall_score")
    (comparison,) = compare_all(rows, answers)
    (verdict,) = annotator([comparison])[0]
    by_text = {c["response"]: c["overall_score"] for c in rated["completions"]}
    better = max(by_text, key=by_text.get)
    assert (comparison.a.text == better) == (verdict["choice"] == "a")
    assert read_rating("Rating: 4\nIt is polite.") == {"Rating": 4, "Rationale": "It is polite."}
    assert read_rating("Good.") == {"Rating": None, "Rationale": "Good."}


def test_ratings_that_exist():
    """Rows of one prompt belong together; the higher wins, the difference is the margin, equals tie."""
    rows = [{"prompt": "p", "completion": c, "rating": r} for c, r in (("x", 4), ("y", "2.5"), ("z", 4.0))]
    prompts, answers, annotator = rated_answers(rows, "rating")
    comparisons = compare_all(prompts, answers)
    found = {}
    for c, (verdict,) in zip(comparisons, annotator(comparisons), strict=True):
        winner = {"a": c.a.text, "b": c.b.text}.get(verdict["choice"], "tie")
        found[frozenset((c.a.text, c.b.text))] = (winner, verdict["margin"])
    assert found == {frozenset("xy"): ("x", 1.5), frozenset("yz"): ("z", 1.5), frozenset("xz"): ("tie", 0)}
    with pytest.raises(InputError, match="rating_column=rating: row 0 has 'good', which is no number"):
        rated_answers([{"prompt": "p", "completion": "x", "rating": "good"}], "rating")
    with pytest.raises(InputError, match="rating_column=stars: row 0 lacks it"):
        rated_answers(rows, "stars")


def test_models_that_score(tiny_llama, tiny_tokenizer):
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_llama(0, num_labels=1).config).eval()
    comparisons = many(3)
    for c, (verdict,) in zip(
        comparisons, reward_model_annotator(model, tiny_tokenizer, "rm")(comparisons), strict=True
    ):
        a, b = score(model, tiny_tokenizer, [c.row["prompt"]] * 2, [c.a.text, c.b.text])
        assert verdict["choice"] == ("a" if a > b else "b")
        assert verdict["margin"] == pytest.approx(abs(a - b), abs=1e-5)
        assert verdict["p_a"] == pytest.approx(1 / (1 + math.exp(b - a)), abs=1e-5)
    lm = tiny_llama(0).eval()
    (comparison,) = many(1)
    (verdict,) = likelihood_annotator(lm, tiny_tokenizer, "lm")([comparison])[0]

    def mean_logp(answer):
        prompt = tiny_tokenizer(comparison.row["prompt"])["input_ids"]
        ids = tiny_tokenizer(answer.text + tiny_tokenizer.eos_token)["input_ids"]
        log_probs = lm(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        return sum(log_probs[len(prompt) + t - 1, i].item() for t, i in enumerate(ids)) / len(ids)

    assert verdict["margin"] == pytest.approx(abs(mean_logp(comparison.a) - mean_logp(comparison.b)), abs=1e-5)


def test_a_person_at_the_terminal_stops_and_goes_on(tmp_path):
    """Two letters that mean nothing are asked again; q after two pairs keeps them; the next day the rest is asked."""
    comparisons, shown = many(4), []
    keys = iter(["x", "", "a", "T", "q"])
    person = TerminalAnnotator("Mara", lambda ask: next(keys), shown.append)
    path = tmp_path / "labels.jsonl"
    assert not label(comparisons, person, Journal(path), batch_size=1)
    assert len(shown) == 3
    keys = iter(["s", "b"])
    assert label(comparisons, TerminalAnnotator("Mara", lambda ask: next(keys), shown.append), Journal(path), 1)
    assert [Journal(path).verdicts[c.id][0]["choice"] for c in comparisons] == ["a", "tie", "skip", "b"]
    assert RIGHT.text in shown[0]

    def ended(ask):
        raise EOFError

    with pytest.raises(StopLabelling):
        TerminalAnnotator("Mara", ended, shown.append)(comparisons)


def test_nothing_is_labelled_twice_and_nothing_is_lost(tmp_path):
    """Killed in the third batch, with half a line written: those ten are asked again, the first twenty are not."""
    comparisons, asked = many(30), []
    better = ScoreAnnotator("longer", lambda prompts, answers: [len(a) for a in answers])

    def annotator(batch):
        asked.extend(c.id for c in batch)
        if len(asked) == 30:
            raise KeyboardInterrupt
        return better(batch)

    path = tmp_path / "labels.jsonl"
    with pytest.raises(KeyboardInterrupt):
        label(comparisons, annotator, Journal(path), batch_size=10)
    with path.open("a") as file:
        file.write('{"id": "half a li')
    assert label(comparisons, annotator, Journal(path), batch_size=10)
    assert sorted(asked) == sorted([c.id for c in comparisons] + [c.id for c in comparisons[20:]])
    lines = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert lines == [c.id for c in comparisons]
