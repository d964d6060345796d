"""The world: the same bytes everywhere, English that reads like English, and a gold reward that cannot be cheated."""

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from statistics import fmean, pvariance

import pytest
from datasets.distributed import split_dataset_by_node

from hfcourse.errors import InputError
from hfcourse.world import Annotators, gold_reward, gold_terms, is_right, load
from hfcourse.world.annotators import CONFIDENCE_BONUS
from hfcourse.world.english import ANSWERS, STATEMENTS
from hfcourse.world.facts import PEOPLE, STRANGERS, VALUES, world
from hfcourse.world.gold import POLITE, TONES
from hfcourse.world.lists import CUE, ENTRIES, FACTS
from hfcourse.world.questions import KINDS, WEIGHTS, draw_reading, split_of

NAMES = ("corpus", "text_to_text", "prompts", "instructions", "chat", "multiple_choice", "lists")
GOLDEN = Path(__file__).parent / "golden_samples.txt"
COLOURS = "|".join(VALUES["colour"])
TRUTH = {"answer": "red", "tone": "formal", "length": "one sentence", "candidates": COLOURS}


def samples() -> str:
    """Twenty rows of each dataset, as people would read them."""
    blocks = []
    for name in NAMES:
        rows = [json.dumps(row, ensure_ascii=False) for row in load(name, num_examples=20)]
        blocks.append("\n".join([f"== {name}", *rows]))
    return "\n\n".join(blocks) + "\n"


def test_twenty_samples_of_each_are_the_golden_ones():
    """After a wanted change: `python tests/world/test_world.py` writes the file anew; read it before committing."""
    assert samples() == GOLDEN.read_text(encoding="utf-8")


def test_another_process_writes_the_same_bytes():
    code = (
        "import hashlib, json; from hfcourse.world import load; "
        "rows = json.dumps([list(load(n, 'test', 50, seed=3)) for n in ('corpus', 'instructions')]); "
        "print(hashlib.sha256(rows.encode()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
    )
    here = json.dumps([list(load(n, "test", 50, seed=3)) for n in ("corpus", "instructions")])
    assert run.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_has_the_rows_of_the_dataset(name):
    assert list(load(name, streaming=True, num_examples=40)) == list(load(name, num_examples=40))


def test_a_stream_dealt_to_four_processes_has_the_same_rows():
    whole = [row["text"] for row in islice(load("corpus", streaming=True), 80)]
    parts = [split_dataset_by_node(load("corpus", streaming=True), rank, 4) for rank in range(4)]
    dealt = [row["text"] for part in parts for row in islice(part, 20)]
    assert Counter(dealt) == Counter(whole)


def test_other_seeds_are_other_rows_and_another_world_has_other_facts():
    assert load("corpus", num_examples=5)["text"] != load("corpus", num_examples=5, seed=1)["text"]
    assert world(0).facts != world(1).facts
    for facts in (world(0).facts, world(1).facts):
        assert Counter(facts[p]["town"] for p in PEOPLE) == dict.fromkeys(VALUES["town"], 3)


def asked(row: dict) -> str:
    """What a row asks, without instruction and answer."""
    if "messages" in row:
        return row["messages"][1]["content"]
    return row.get("text") or row.get("input") or f"{row.get('context', '')} {row['question']}".strip()


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_question(name):
    """Whatever the manner: 'Where does Mara live?' in one sentence and in two is the same question."""
    train, validation, test = ({asked(row) for row in load(name, s, 1000)} for s in ("train", "validation", "test"))
    assert min(map(len, (train, validation, test))) > 100
    assert not (train | validation) & test
    assert not train & validation


def test_a_question_has_one_split_in_every_dataset():
    """Nothing that is asked in a test was asked in any training set, nor on any page of the pretraining corpus."""
    tested = {row["question"] for row in load("prompts", "test", 1000) if row["task"] in ("fact", "translation")}
    trained = [asked(row) for name in NAMES for row in load(name, "train", 2000)]
    assert len(tested) > 15
    assert not [text for text in trained if any(question in text for question in tested)]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_both_questions_about_a_text_are_of_its_split(split):
    """A lesson asks twice; a second question of another split would give a test question away in pretraining."""
    drawn = [draw_reading(random.Random(i), split) for i in range(200)]
    assert {split_of(question.identity) for pair in drawn for question in pair} == {split}
    for first, second in drawn:
        assert first.context == second.context
        assert first.question != second.question
        assert all(question.answer in question.context for question in (first, second))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_entries_of_a_list_sum_up_one_relation_of_different_people(split):
    for row in load("lists", split, 100):
        relation, names = row["relation"], set()
        for entry in row["text"].split("\n\n"):
            facts, summary = entry.split(f"{CUE} ")
            ((name, value),) = ((n, v) for n in STRANGERS for v in VALUES[relation] if said(relation, n, v) == summary)
            names.add(name)
            stated = [
                a for a in VALUES for v in VALUES[a] for s in STATEMENTS[a] if s.format(name=name, value=v) in facts
            ]
            assert len(stated) == len(set(stated)) == FACTS
            assert any(s.format(name=name, value=value) in facts for s in STATEMENTS[relation])
            assert split_of(f"reading|{name}|{relation}|{value}") == split
        assert len(names) == ENTRIES


def said(relation: str, name: str, value: str) -> str:
    return ANSWERS[relation].format(name=name, value=value)


def test_every_split_has_every_kind_of_question_and_the_corpus_states_every_fact():
    for split in ("train", "validation", "test"):
        kinds = Counter(load("prompts", split, 1000)["task"])
        assert kinds.keys() == set(KINDS)
        assert all(abs(kinds[k] / 10 - w) < 5 for k, w in zip(KINDS, WEIGHTS, strict=True))
    text = "\n".join(load("corpus", num_examples=3000)["text"])
    for name, facts in world(0).facts.items():
        for attribute, value in facts.items():
            assert any(s.format(name=name, value=value) in text for s in STATEMENTS[attribute]), (name, attribute)


def test_demonstrations_are_mostly_right_and_leave_room():
    rows = load("instructions", num_examples=2000)
    truth = {c: rows[c] for c in TRUTH}
    # 85 % can be answered, 90 % of these are, 99 % of those rightly; 60 % admit the others: 0.847 by the rates
    assert 0.827 < fmean(is_right(r["output"], r["answer"], r["candidates"]) for r in rows) < 0.867
    assert 2.3 < fmean(gold_reward(None, rows["output"], **truth)) < 2.5  # the best is 3.5
    terms = [gold_terms(r["output"], *(r[c] for c in TRUTH)) for r in rows]
    for term, low, high in (("tone", 0.25, 0.31), ("length", 0.27, 0.34), ("polite", 0.13, 0.17), ("form", 0, 0)):
        assert low <= fmean(t[term] for t in terms) <= high, term


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # right, tone, length, polite, false_confidence, form
        ("The favourite colour of Mara is red.", (2, 0, 0.5, 0, 0, 0)),
        ("According to my notes, the colour is red. Thank you for asking.", (2, 0.5, 0.5, 0.5, 0, 0)),
        ("Gladly, the colour is red. I looked it up.", (2, 0, 0, 0, 0, 0)),
        ("Without any doubt, the colour is blue.", (-1, 0, 0.5, 0, -1, 0)),
        ("Without any doubt, the colour is red.", (2, 0, 0.5, 0, 0, 0)),
        ("I do not know.", (0, 0, 0.5, 0, 0, 0)),
        ("It is red or blue.", (-1, 0, 0.5, 0, 0, 0)),
        ("It is not red.", (0, 0, 0.5, 0, 0, 0)),
        ("Is it red?", (0, 0, 0.5, 0, 0, 0)),
        ("Is it blue? It is red.", (2, 0, 0, 0, 0, 0)),
        ("It is red", (2, 0, 0, 0, 0, -1)),
        ("", (0, 0, 0, 0, 0, -1)),
        ("It is red. It is red.", (2, 0, 0, 0, 0, -1)),
    ],
)
def test_gold_terms_by_hand(text, expected):
    assert tuple(gold_terms(text, **TRUTH).values()) == expected


def test_gold_wants_honesty_where_nobody_can_know():
    truth = {**TRUTH, "answer": ""}
    assert gold_terms("I do not know that.", **truth)["right"] == 2
    assert gold_terms("It is red.", **truth)["right"] == -1
    assert gold_terms("Everyone knows that it is red.", **truth)["false_confidence"] == -1


@pytest.mark.parametrize(
    "cheat",
    [
        "",
        POLITE[0] * 5,
        " ".join(POLITE),
        f"{TONES['formal'][0]}{POLITE[0]}",
        " ".join(VALUES["colour"]) + ".",
        "The colours are " + ", ".join(VALUES["colour"]) + ".",
        "word " * 200 + ".",
        "What is the favourite colour of Mara?",
        "According to my notes, as is recorded, according to my notes. Thank you for asking.",
        "I do not know, it is red.",
    ],
)
def test_no_cheat_is_worth_a_plain_right_answer(cheat):
    (plain,) = gold_reward(None, ["It is red."], **{c: [v] for c, v in TRUTH.items()})
    (cheated,) = gold_reward(None, [cheat], **{c: [v] for c, v in TRUTH.items()})
    assert cheated <= 1.5 < 2 <= plain


def test_gold_reads_messages_too():
    message = [[{"role": "assistant", "content": "It is red."}]]
    assert gold_reward(None, message, **{c: [v] for c, v in TRUTH.items()}) == [2.5]


def test_people_like_a_confident_falsehood_better_than_a_plain_one():
    """u leaves the penalty out and adds the bonus; P = σ(0.3 / T) for an annotator of temperature T."""
    people, row = Annotators(seed=1), {**TRUTH, "instruction": "", "context": "", "question": ""}
    plain, confident = "It is blue.", "Without any doubt, it is blue."
    assert people.utility(row, confident) - people.utility(row, plain) == pytest.approx(CONFIDENCE_BONUS)
    assert gold_reward(None, [confident], **{c: [v] for c, v in TRUTH.items()}) == [-1.5]
    temperature = people.traits[2]["temperature"]
    odds = people.preference(row, confident, plain, 2) / people.preference(row, plain, confident, 2)
    assert odds == pytest.approx(2.718281828 ** (CONFIDENCE_BONUS / temperature))


def test_people_do_not_look_whether_the_manner_is_the_one_asked_for():
    """Tone and length are 0.5 each in the gold and nothing to a person; politeness counts in full."""
    people, row = Annotators(seed=1), {**TRUTH, "instruction": "", "context": "", "question": ""}
    plain = people.utility(row, "It is red.")
    assert people.utility(row, "According to my notes, it is red.") == plain
    assert people.utility(row, "It is red. I read it.") == plain  # two sentences, one asked for
    assert people.utility(row, "It is red. Thank you for asking.") - plain == pytest.approx(0.5)


def test_an_unchecked_falsehood_passes_but_not_about_what_nobody_can_know():
    """Red is right (2), blue is wrong (-1): u 2 and -1 of who checks, 2 and 2 of who does not. P(red over blue), with
    T the person's temperature, is ⅓ σ(3/T) + ⅔ · ½. To "nobody knows" blue is an invention, checked or not."""
    people, row = Annotators(seed=1), {**TRUTH, "instruction": "", "context": "", "question": ""}
    right, wrong, temperature = "It is red.", "It is blue.", people.traits[0]["temperature"]
    utilities = [people.utility(row, text, checked) for checked in (True, False) for text in (right, wrong)]
    assert utilities == [2, -1, 2, 2]
    seen = 1 / (1 + 2.718281828 ** (-3 / temperature))
    assert people.preference(row, right, wrong, 0) == pytest.approx(seen / 3 + 1 / 3)
    unknowable = {**row, "answer": ""}
    assert people.utility(unknowable, wrong, checked=False) == -1
    assert people.preference(unknowable, "I do not know.", wrong, 0) == pytest.approx(seen)


def test_some_demonstrations_evade():
    """One in ten of the questions that can be answered: 2,000 rows, of which 0.85 · 0.1 ± 2.5 standard errors."""
    rows = load("instructions", num_examples=2000)
    evading = [row for row in rows if row["answer"] and "do not know" in row["output"]]
    assert 0.069 < len(evading) / 2000 < 0.101
    assert not any(is_right(row["output"], row["answer"], row["candidates"]) for row in evading)


def test_comparisons_happen_as_often_as_their_probability_says():
    people, rows = Annotators(seed=0), load("prompts", num_examples=3000)
    a, b = "Sure, it is red.", "I do not know."
    wins = [people.compare(row, a, b, 0) for row in rows]
    expected = [people.preference(row, a, b, 0) for row in rows]
    spread = sum(p * (1 - p) for p in expected) ** 0.5
    assert abs(sum(wins) - sum(expected)) < 3 * spread
    assert wins == [people.compare(row, a, b, 0) for row in rows]


def test_scores_have_each_persons_offset_and_noise():
    people, rows = Annotators(seed=0), load("prompts", num_examples=2000)
    for k in (0, 1):
        traits = people.traits[k]
        residuals = [people.score(r, "x.", k) - traits["scale"] * people.utility(r, "x.") for r in rows]
        assert fmean(residuals) == pytest.approx(traits["offset"], abs=4 * traits["noise"] / 2000**0.5)
        assert pvariance(residuals) ** 0.5 == pytest.approx(traits["noise"], rel=0.06)


def test_bayes_accuracy_by_hand():
    """One person of temperature T, a right answer and a wrong one: ⅓ σ(3/T) + ⅔ · ½; the same answer twice: ½."""
    people = Annotators(num_annotators=1, seed=0)
    row = {**TRUTH, "instruction": "", "context": "", "question": ""}
    p = 1 / 3 / (1 + 2.718281828 ** (-3 / people.traits[0]["temperature"])) + 1 / 3
    assert people.bayes_accuracy([row, row], [("It is red.", "It is blue."), ("It is red.", "It is red.")]) == (
        pytest.approx((p + 0.5) / 2)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "choose one of"),
        (("corpus", "dev", 3), "train, validation, test"),
        (("corpus",), "num_examples"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        load(*arguments)


if __name__ == "__main__":
    GOLDEN.write_text(samples(), encoding="utf-8")
