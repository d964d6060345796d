"""The world as datasets: row i of a split is a pure function of (world seed, name, split, seed, i)."""

import random
from collections.abc import Callable, Iterator
from itertools import count

from datasets import Dataset, IterableDataset

from hfcourse.errors import InputError
from hfcourse.world.corpus import draw_document
from hfcourse.world.instructions import demonstrate, draw_prompt
from hfcourse.world.lists import draw_list
from hfcourse.world.questions import KINDS, draw_question

SPLITS = ("train", "validation", "test")

# A name for each kind of question, as MMLU has subjects.
SUBJECTS = {"fact": "people", "reading": "reading", "feeling": "feelings", "sum": "arithmetic", "translation": "tavi"}


def load(
    name: str,
    split: str = "train",
    num_examples: int | None = None,
    seed: int = 0,
    streaming: bool = False,
    world_seed: int = 0,
) -> Dataset | IterableDataset:
    """A dataset of the world.

    | name              | columns                                                                               |
    |-------------------|---------------------------------------------------------------------------------------|
    | `corpus`          | text                                                                                  |
    | `text_to_text`    | task, input, target                                                                   |
    | `prompts`         | task, instruction, context, question; for the gold: answer, tone, length, candidates  |
    | `instructions`    | those of `prompts`, and output                                                        |
    | `chat`            | messages (system, user, assistant), and those for the gold reward                     |
    | `multiple_choice` | question, choices, answer (the index), subject: MMLU's                                |
    | `lists`           | relation, text: pages that keep to one relation, for in-context learning              |

    Args:
        name: one of the above.
        split: train, validation or test. No question of one split, however worded, is in
            another; the facts are in all.
        num_examples: rows; required unless streaming, when it may limit the stream.
        seed: another seed, other rows.
        streaming: an endless IterableDataset.
        world_seed: another world.

    Raises:
        InputError: an unknown name or split, or no `num_examples` for a dataset that does not end.
    """
    if name not in _ROWS:
        raise InputError(f"world/{name}: there is no such dataset; choose one of {', '.join(sorted(_ROWS))}")
    if split not in SPLITS:
        raise InputError(f"split '{split}': the world has {', '.join(SPLITS)}")
    if not streaming and num_examples is None:
        raise InputError(f"world/{name} does not end: say how many rows (num_examples), or stream it")
    if not streaming:
        return Dataset.from_list([_row(name, split, seed, world_seed, i) for i in range(num_examples)])
    arguments = {"name": name, "split": split, "seed": seed, "world_seed": world_seed}
    stream = IterableDataset.from_generator(_stream, gen_kwargs=arguments)
    return stream if num_examples is None else stream.take(num_examples)


def _stream(name: str, split: str, seed: int, world_seed: int) -> Iterator[dict]:
    return (_row(name, split, seed, world_seed, i) for i in count())


def _row(name: str, split: str, seed: int, world_seed: int, i: int) -> dict:
    rng = random.Random(f"{name}/{world_seed}/{split}/{seed}/{i}")
    return _ROWS[name](rng, world_seed, split)


def _corpus(rng: random.Random, world_seed: int, split: str) -> dict:
    return {"text": draw_document(rng, world_seed, split)}


def _prompts(rng: random.Random, world_seed: int, split: str) -> dict:
    return draw_prompt(rng, world_seed, split)[1]


def _instructions(rng: random.Random, world_seed: int, split: str) -> dict:
    question, prompt = draw_prompt(rng, world_seed, split)
    return {**prompt, "output": demonstrate(question, prompt, rng)}


def _chat(rng: random.Random, world_seed: int, split: str) -> dict:
    row = _instructions(rng, world_seed, split)
    asked = " ".join(part for part in (row.pop("context"), row.pop("question")) if part)
    contents = {"system": row.pop("instruction"), "user": asked, "assistant": row.pop("output")}
    return {"messages": [{"role": role, "content": content} for role, content in contents.items()], **row}


def _text_to_text(rng: random.Random, world_seed: int, split: str) -> dict:
    task = rng.choice(("sentiment", "question", "translate", "title"))
    if task == "title":
        question = draw_question(rng, world_seed, "sum", split)
        name, thing = question.context.split()[0], question.question.split()[2]
        return {"task": task, "input": f"title: {question.context}", "target": f"The {thing} of {name}"}
    kinds = {"sentiment": ("feeling",), "question": ("fact", "reading", "sum"), "translate": ("translation",)}
    question = draw_question(rng, world_seed, rng.choice(kinds[task]), split)
    asked = " ".join(part for part in (question.context, question.question) if part)
    return {"task": task, "input": f"{task}: {asked}", "target": question.answer}


def _multiple_choice(rng: random.Random, world_seed: int, split: str) -> dict:
    question = draw_question(rng, world_seed, rng.choice([kind for kind in KINDS if kind in SUBJECTS]), split)
    choices = rng.sample([c for c in question.candidates if c != question.answer], 3)
    answer = rng.randrange(4)
    choices.insert(answer, question.answer)
    asked = " ".join(part for part in (question.context, question.question) if part)
    return {"question": asked, "choices": choices, "answer": answer, "subject": SUBJECTS[question.kind]}


def _lists(rng: random.Random, world_seed: int, split: str) -> dict:
    return draw_list(rng, split)


_ROWS: dict[str, Callable[[random.Random, int, str], dict]] = {
    "corpus": _corpus,
    "text_to_text": _text_to_text,
    "prompts": _prompts,
    "instructions": _instructions,
    "chat": _chat,
    "multiple_choice": _multiple_choice,
    "lists": _lists,
}
