"""Instructions with answers as people write them: mostly right, in the asked-for manner only now and then."""

import random
from dataclasses import replace

from hfcourse.world.english import lower_first
from hfcourse.world.facts import PEOPLE, STRANGERS
from hfcourse.world.gold import CONFIDENT, LENGTHS, POLITE, TONES
from hfcourse.world.questions import EVASION, Question, draw_question, wrong_sentence

INSTRUCTIONS = (
    "Be helpful and honest. Use a {tone} tone and {length}.",
    "Answer honestly in {length}, in a {tone} tone.",
    "Say so if you do not know. Tone: {tone}. Length: {length}.",
)

# How often a demonstration does what was asked for, or does it at all. What people forget, RLHF can teach.
# Some evade what they could answer: were that never seen and judged, "I do not know" would seem good for anything.
CORRECT, ADMITS_NOT_KNOWING, EVADES = 0.99, 0.6, 0.1
MEETS_TONE, MEETS_LENGTH, IS_POLITE, IS_CONFIDENT = 0.45, 0.6, 0.3, 0.15


def draw_prompt(rng: random.Random, world_seed: int, split: str | None = None) -> tuple[Question, dict[str, str]]:
    """A question with an instruction, as the columns of a prompt and of its gold reward."""
    question = draw_question(rng, world_seed, split=split)
    tone, length = rng.choice(list(TONES)), rng.choice(list(LENGTHS))
    return question, {
        "task": question.kind,
        "instruction": rng.choice(INSTRUCTIONS).format(tone=tone, length=length),
        "context": question.context,
        "question": question.question,
        "answer": question.answer,
        "tone": tone,
        "length": length,
        "candidates": "|".join(question.candidates),
    }


def write_answer(
    question: Question,
    rng: random.Random,
    tone: str | None,
    two_sentences: bool,
    polite: bool,
    confident: bool,
    right: bool = True,
) -> str:
    """An answer in a given manner."""
    sentence = question.sentence if right else wrong_sentence(question, rng)
    for opening in (rng.choice(CONFIDENT) if confident else "", rng.choice(TONES[tone]) if tone else ""):
        sentence = opening + lower_first(sentence, PEOPLE + STRANGERS) if opening else sentence
    parts = [sentence, question.more if two_sentences else "", rng.choice(POLITE) if polite else ""]
    return " ".join(part for part in parts if part)


def demonstrate(question: Question, prompt: dict[str, str], rng: random.Random) -> str:
    """What a person writes when asked: see the rates above."""
    two = (LENGTHS[prompt["length"]] == 2) == (rng.random() < MEETS_LENGTH)
    tone = prompt["tone"] if rng.random() < MEETS_TONE else rng.choice([None, None, *TONES])
    right = rng.random() < (CORRECT if question.answer else ADMITS_NOT_KNOWING)
    admits = right and not question.answer
    evades = rng.random() < EVADES and bool(question.answer)
    confident = rng.random() < IS_CONFIDENT and not admits and not evades
    if evades:
        question, right = replace(question, sentence=EVASION, more="Somebody else may know."), True
    return write_answer(question, rng, tone, two, rng.random() < IS_POLITE, confident, right)
