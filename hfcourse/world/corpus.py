"""What there is to read about the world: pages, stories, word lists, and questions with answers as on the web."""

import random

from hfcourse.world.english import ANSWERS, FEELING_STORIES, STATEMENTS
from hfcourse.world.facts import FEELINGS, PEOPLE, STRANGERS, TAVI, VALUES, world
from hfcourse.world.instructions import demonstrate, draw_prompt
from hfcourse.world.questions import draw_question, draw_reading, split_of

# How often a document is of each kind; what states and asks for facts is most of the text.
WEIGHTS = (18, 4, 16, 8, 8, 26, 16, 4)


def draw_document(rng: random.Random, world_seed: int, split: str) -> str:
    """A random document of one of the kinds below.

    Every split states the facts. Pages that ask have the questions of their split alone, so that no question that a
    model is tested with was ever asked in its pretraining text; of the others no page is in two splits.
    """
    while True:
        (kind,) = rng.choices(KINDS_OF_PAGES, WEIGHTS)
        document = kind(rng, world_seed, split)
        if kind in PAGES_THAT_ASK or split_of(document) == split:
            return document


def _person(rng: random.Random, world_seed: int, split: str) -> str:
    name = rng.choice(PEOPLE)
    facts = list(world(world_seed).facts[name].items())
    rng.shuffle(facts)
    return " ".join(_state(rng, name, *fact) for fact in facts)


def _town(rng: random.Random, world_seed: int, split: str) -> str:
    facts, town = world(world_seed).facts, rng.choice(VALUES["town"])
    people = [name for name in PEOPLE if facts[name]["town"] == town]
    told = [f"{name} is the {facts[name]['job']} of the town." for name in people]
    return " ".join([f"{', '.join(people[:-1])} and {people[-1]} live in {town}.", *told])


def _strangers(rng: random.Random, world_seed: int, split: str) -> str:
    """Somebody introduced and summed up: what was said once is said again, so that reading back pays."""
    name = rng.choice(STRANGERS)
    told = {a: rng.choice(VALUES[a]) for a in rng.sample(list(VALUES), 3)}
    facts = [_state(rng, name, *fact) for fact in told.items()]
    summary = [ANSWERS[a].format(name=name, value=told[a]) for a in rng.sample(list(told), 3)]
    return " ".join([*facts, "In short:", *summary])


def _state(rng: random.Random, name: str, attribute: str, value: str) -> str:
    return rng.choice(STATEMENTS[attribute]).format(name=name, value=value)


def _story(rng: random.Random, world_seed: int, split: str) -> str:
    name, feeling = rng.choice(PEOPLE + STRANGERS), rng.choice(FEELINGS)
    question = draw_question(rng, world_seed, "sum")
    story = f"{rng.choice(FEELING_STORIES[feeling]).format(name=name)} {name} feels {feeling}."
    return f"{story} {question.context} Now {question.sentence}"


def _words(rng: random.Random, world_seed: int, split: str) -> str:
    words = rng.sample(list(TAVI.items()), 4)
    phrase = draw_question(rng, world_seed, "translation", split)
    lines = [f"The Tavi for {english} is {tavi}." for english, tavi in words]
    return " ".join([*lines, phrase.question, phrase.sentence])


def _faq(rng: random.Random, world_seed: int, split: str) -> str:
    """Plain questions and short answers, as a page of them on the web."""
    blocks = []
    for _ in range(3):
        question = draw_question(rng, world_seed, split=split)
        context = f"{question.context}\n" if question.context else ""
        blocks.append(f"{context}Question: {question.question}\nAnswer: {question.sentence}")
    return "\n\n".join(blocks)


def _lesson(rng: random.Random, world_seed: int, split: str) -> str:
    """A text and two questions about it, as in a reader for schools."""
    questions = draw_reading(rng, split)
    return "\n".join([questions[0].context, *(f"Question: {q.question}\nAnswer: {q.sentence}" for q in questions)])


def _instructions(rng: random.Random, world_seed: int, split: str) -> str:
    """Blocks in the four-part form, answered in whatever manner: the form is known before instruction tuning."""
    blocks = []
    for _ in range(3):
        question, prompt = draw_prompt(rng, world_seed, split)
        context = f"Context: {prompt['context']}\n" if prompt["context"] else ""
        answer = demonstrate(question, prompt, rng) if rng.random() < 0.5 else question.sentence
        blocks.append(
            f"Instruction: {prompt['instruction']}\n{context}Question: {prompt['question']}\nOutput: {answer}"
        )
    return "\n\n".join(blocks)


KINDS_OF_PAGES = (_person, _town, _strangers, _story, _words, _faq, _lesson, _instructions)
PAGES_THAT_ASK = (_words, _faq, _lesson, _instructions)
