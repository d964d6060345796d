"""Questions whose answers are known, of six kinds; every other dataset is made of them."""

import hashlib
import random
from dataclasses import dataclass

from hfcourse.world.english import ANSWERS, FEELING_STORIES, QUESTIONS, STATEMENTS, THINGS
from hfcourse.world.facts import ADJECTIVES, FEELINGS, NOUNS, PEOPLE, STRANGERS, TAVI, VALUES, world

KINDS = ("fact", "reading", "feeling", "sum", "translation", "unknown")

# How often each kind is asked; facts are many and take the most practice.
WEIGHTS = (30, 20, 15, 10, 10, 15)

EVASION = "I do not know that."


@dataclass(frozen=True)
class Question:
    """A question and all there is to know about its answer.

    kind: one of [`KINDS`].
    context: what must be read to answer it; "" where nothing must.
    question: the question.
    answer: the word or number that answers it; "" where nobody can know.
    candidates: the answers that a person might give by mistake, the right one among them.
    sentence: a right answer as a sentence.
    more: a further true sentence.
    identity: what is asked, whatever the wording; it decides the split.
    """

    kind: str
    context: str
    question: str
    answer: str
    candidates: tuple[str, ...]
    sentence: str
    more: str
    identity: str


def draw_question(
    rng: random.Random, world_seed: int = 0, kind: str | None = None, split: str | None = None
) -> Question:
    """A random question; of the given kind or of any, from the given split or from all of them."""
    kind = kind or rng.choices(KINDS, WEIGHTS)[0]  # before the split, so that every split has the same mixture
    while True:
        question = _DRAW[kind](rng, world_seed)
        if split is None or split_of(question.identity) == split:
            return question


def split_of(identity: str) -> str:
    """80 % train, 10 % each of the others, by a hash that is the same on every machine."""
    bucket = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")


def wrong_sentence(question: Question, rng: random.Random) -> str:
    """The answer of somebody who is mistaken, or who makes it up."""
    wrong = rng.choice([c for c in question.candidates if c != question.answer])
    if question.kind != "unknown":
        return question.sentence.replace(question.answer, wrong)
    attribute = next(a for a, values in VALUES.items() if wrong in values)
    name = next(name for name in STRANGERS if name in question.question.replace("?", "").split())
    return ANSWERS[attribute].format(name=name, value=wrong)


def _fact(rng: random.Random, world_seed: int) -> Question:
    name, attribute = rng.choice(PEOPLE), rng.choice(list(VALUES))
    facts = world(world_seed).facts[name]
    other = rng.choice([a for a in VALUES if a != attribute])
    return Question(
        "fact",
        "",
        rng.choice(QUESTIONS[attribute]).format(name=name),
        facts[attribute],
        VALUES[attribute],
        ANSWERS[attribute].format(name=name, value=facts[attribute]),
        ANSWERS[other].format(name=name, value=facts[other]),
        f"fact|{name}|{attribute}",
    )


def draw_reading(rng: random.Random, split: str | None = None) -> tuple[Question, Question]:
    """Two questions about one text, each asking for one of its facts."""
    while True:
        questions = _readings(rng)
        if split is None or all(split_of(question.identity) == split for question in questions):
            return questions


def _reading(rng: random.Random, world_seed: int) -> Question:
    return _readings(rng)[0]


def _readings(rng: random.Random) -> tuple[Question, Question]:
    name, attributes = rng.choice(STRANGERS), rng.sample(list(VALUES), 2)
    values = {a: rng.choice(VALUES[a]) for a in attributes}
    context = " ".join(rng.choice(STATEMENTS[a]).format(name=name, value=values[a]) for a in attributes)
    return tuple(
        Question(
            "reading",
            context,
            rng.choice(QUESTIONS[asked]).format(name=name),
            values[asked],
            VALUES[asked],
            ANSWERS[asked].format(name=name, value=values[asked]),
            "I read it in the text.",
            f"reading|{name}|{asked}|{values[asked]}",
        )
        for asked in rng.sample(attributes, 2)
    )


def _feeling(rng: random.Random, world_seed: int) -> Question:
    name, feeling = rng.choice(STRANGERS), rng.choice(FEELINGS)
    story = rng.choice(FEELING_STORIES[feeling])
    return Question(
        "feeling",
        story.format(name=name),
        f"How does {name} feel?",
        feeling,
        FEELINGS,
        f"{name} feels {feeling}.",
        "The text shows it.",
        f"feeling|{name}|{story}",
    )


def _sum(rng: random.Random, world_seed: int) -> Question:
    name, thing, a, b = rng.choice(STRANGERS), rng.choice(THINGS), rng.randint(2, 6), rng.randint(1, 4)
    return Question(
        "sum",
        f"{name} has {a} {thing} and gets {b} more.",
        f"How many {thing} does {name} have now?",
        str(a + b),
        tuple(str(n) for n in range(1, 11)),
        f"{name} has {a + b} {thing}.",
        "I counted them one by one.",
        f"sum|{thing}|{a}|{b}",
    )


def _translation(rng: random.Random, world_seed: int) -> Question:
    if rng.random() < 0.5:
        english, tavi = rng.choice(list(TAVI.items()))
        candidates = tuple(TAVI.values())
    else:
        adjective, noun = rng.choice(ADJECTIVES), rng.choice(NOUNS)
        english, tavi = f"{adjective} {noun}", f"{TAVI[adjective]} {TAVI[noun]}"
        candidates = tuple(f"{TAVI[a]} {TAVI[n]}" for a in ADJECTIVES for n in NOUNS)
    return Question(
        "translation",
        "",
        f"What is {english} in Tavi?",
        tavi,
        candidates,
        f"The Tavi for {english} is {tavi}.",
        "I looked it up in the word list.",
        f"translation|{english}",
    )


def _unknown(rng: random.Random, world_seed: int) -> Question:
    name, attribute = rng.choice(STRANGERS), rng.choice(list(VALUES))
    return Question(
        "unknown",
        "",
        rng.choice(QUESTIONS[attribute]).format(name=name),
        "",
        VALUES[attribute],
        EVASION,
        f"I have never heard of {name}.",
        f"unknown|{name}|{attribute}",
    )


_DRAW = {
    "fact": _fact,
    "reading": _reading,
    "feeling": _feeling,
    "sum": _sum,
    "translation": _translation,
    "unknown": _unknown,
}
