"""Prompting, the method that trains nothing: which examples are shown, what an answer says, what samples agree on."""

import math
import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations, islice

from hfcourse.errors import InputError

# What parts two examples; a model that goes on with a new example has finished its answer.
SEPARATOR = "\n\n"
STRATEGIES = ("random", "similar", "balanced")
MAX_SUBSETS = 500  # of k samples out of n, over which accuracy is averaged

NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
IN_BRACKETS, ALONE = re.compile(r"\(([A-Z])\)"), re.compile(r"\b([A-HJ-Z])\b(?!['’])")  # "I" is mostly a word


def few_shot_prompts(
    prompts: list[str],
    examples: list[dict[str, str]],
    num_shots: int,
    seed: int = 0,
    strategy: str = "random",
    instruction: str | None = None,
) -> list[str]:
    """Each prompt behind `num_shots` examples: p₁c₁ ⏎⏎ … p_k c_k ⏎⏎ prompt (https://huggingface.co/papers/2005.14165).

    Args:
        prompts: texts, in the form of the examples' prompts.
        examples: rows with `prompt` and `completion`.
        num_shots: k; 0 gives the prompts as they are.
        seed, strategy: see [`choose_examples`].
        instruction: stands before everything, parted by a blank line.

    Raises:
        InputError: fewer examples than shots.
    """
    chosen = choose_examples(prompts, examples, num_shots, strategy, seed)
    before = [instruction] if instruction else []
    return [
        SEPARATOR.join([*before, *(examples[i]["prompt"] + examples[i]["completion"] for i in shown), prompt])
        for prompt, shown in zip(prompts, chosen, strict=True)
    ]


def few_shot_chats(
    prompts: list[str],
    examples: list[dict[str, str]],
    num_shots: int,
    seed: int = 0,
    strategy: str = "random",
    instruction: str | None = None,
) -> list[list[dict[str, str]]]:
    """The same as conversations: the instruction is the system's, each example a user's turn and its answer."""
    chosen = choose_examples(prompts, examples, num_shots, strategy, seed)
    before = [{"role": "system", "content": instruction}] if instruction else []
    chats = []
    for prompt, shown in zip(prompts, chosen, strict=True):
        turns = [
            {"role": role, "content": examples[i][side].strip()}
            for i in shown
            for role, side in (("user", "prompt"), ("assistant", "completion"))
        ]
        chats.append([*before, *turns, {"role": "user", "content": prompt.strip()}])
    return chats


def choose_examples(
    prompts: list[str], examples: list[dict], num_shots: int, strategy: str = "random", seed: int = 0
) -> list[list[int]]:
    """Numbers of the examples that stand before each prompt, in the order in which they are shown.

    random: drawn for prompt i from (seed, i) alone.
    similar: the nearest by TF-IDF of their words, the nearest last, next to the question
        (https://huggingface.co/papers/2101.06804).
    balanced: drawn at random, as many of each answer as possible, for an answer that is seen often is given often
        (https://huggingface.co/papers/2102.09690). Answers are told apart by `label`, or else by the completion.

    Raises:
        InputError: an unknown strategy, or fewer examples than shots.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"shots_strategy='{strategy}': choose {', '.join(STRATEGIES)}")
    if num_shots > len(examples):
        raise InputError(f"num_shots={num_shots}: there are only {len(examples)} examples")
    if num_shots == 0:
        return [[] for _ in prompts]
    if strategy == "similar":
        return _nearest(prompts, [row["prompt"] for row in examples], num_shots)
    generators = (random.Random(f"shots/{seed}/{i}") for i in range(len(prompts)))
    if strategy == "random":
        return [rng.sample(range(len(examples)), num_shots) for rng in generators]
    return [_balanced(examples, num_shots, rng) for rng in generators]


def _nearest(prompts: list[str], shown: list[str], num_shots: int) -> list[list[int]]:
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True).fit(shown)
    similarity = (vectorizer.transform(prompts) @ vectorizer.transform(shown).T).toarray()
    return [order[::-1].tolist() for order in np.argsort(-similarity, axis=1, kind="stable")[:, :num_shots]]


def _balanced(examples: list[dict], num_shots: int, rng: random.Random) -> list[int]:
    of_answer: dict[object, list[int]] = {}
    for i, row in enumerate(examples):
        of_answer.setdefault(row.get("label", row["completion"]), []).append(i)
    groups = [rng.sample(group, len(group)) for group in of_answer.values()]
    rng.shuffle(groups)
    # One of each answer, then a second of each, …; a small group is used up earlier.
    rounds = (group[j] for j in range(max(map(len, groups))) for group in groups if j < len(group))
    chosen = list(islice(rounds, num_shots))
    rng.shuffle(chosen)
    return chosen


def extractor(name: str) -> Callable[[str], str]:
    """What an answer says, as a function of its text; "" where it says nothing of the kind.

    number: the last number, without $ and commas. letter: the last one in brackets, or the first that stands alone.
    line: the first line. Anything else is a regular expression, of whose last match the first group counts, or all.

    Raises:
        InputError: a regular expression that is none.
    """
    if name == "number":
        return lambda text: _as_number(_last(NUMBER, text))
    if name == "letter":
        return lambda text: _last(IN_BRACKETS, text) or next((m[1] for m in ALONE.finditer(text)), "")
    if name == "line":
        return lambda text: text.strip().partition("\n")[0].strip()
    try:
        pattern = re.compile(name, re.DOTALL)
    except re.error as e:
        raise InputError(f"extract='{name}': is neither number, letter, line nor a regular expression: {e}") from e
    return lambda text: _last(pattern, text)


def _last(pattern: re.Pattern, text: str) -> str:
    matches = list(pattern.finditer(text))
    if not matches:
        return ""
    groups = [group for group in matches[-1].groups() if group is not None]
    return (groups[0] if groups else matches[-1][0]).strip()


def _as_number(text: str) -> str:
    plain = text.replace(",", "").replace("$", "")
    return f"{float(plain):g}" if plain and len(plain) < 16 else plain


def accuracy_by_k(answers: list[list[str]], references: list[str]) -> dict[int, list[float]]:
    """Self-consistency (https://huggingface.co/papers/2203.11171): of each question, how likely k samples vote right.

        a_k = mean over subsets S of k samples of [the reference is the most frequent answer in S]

    exactly, over all subsets, or over the first 500 in a fixed random order where there are more. Answers of equal
    frequency share the vote; "" (no answer found) has none.

    Args:
        answers: of each question, what its n samples say.
        references: what is right.

    Returns:
        {k: a value from 0 to 1 of each question} for k = 1 … n.
    """
    num_samples = len(answers[0])
    return {
        k: [_vote(said, reference, k) for said, reference in zip(answers, references, strict=True)]
        for k in range(1, num_samples + 1)
    }


def _vote(said: list[str], reference: str, k: int) -> float:
    n = len(said)
    if math.comb(n, k) <= MAX_SUBSETS:
        subsets = list(combinations(range(n), k))
    else:
        rng = random.Random(f"subsets/{n}/{k}")
        subsets = [rng.sample(range(n), k) for _ in range(MAX_SUBSETS)]
    return sum(_share([said[i] for i in subset], reference) for subset in subsets) / len(subsets)


def _share(votes: list[str], reference: str) -> float:
    counts = Counter(vote for vote in votes if vote)
    winners = [vote for vote, count in counts.items() if count == max(counts.values())]
    return 1 / len(winners) if reference in winners else 0.0
