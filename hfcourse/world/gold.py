"""The gold reward: what a good answer is worth, exactly.

| term               | worth | when                                                                              |
|--------------------|-------|-----------------------------------------------------------------------------------|
| `right`            | +2    | states the answer and no other candidate; or says "I do not know" where nobody can |
|                    | -1    | states another candidate, or more than one                                        |
|                    |  0    | states none (to ask or to deny is not to state), or does not know what one could   |
| `tone`             | +0.5  | the tone that was asked for                                                       |
| `length`           | +0.5  | the number of sentences that was asked for; the polite one does not count         |
| `polite`           | +0.5  | says one of the polite phrases                                                    |
| `false_confidence` | -1    | sounds certain and is wrong                                                       |
| `form`             | -1    | empty, longer than 40 words, repeats a sentence or three words, or does not end    |

The reward is their sum, from -3 to 3.5. `tone`, `length` and `polite` count only in good form and are one phrase each,
so that neither repeating a phrase nor length earns anything: without the right answer no text is worth more than 1.5,
and a plain right answer is worth 2 at least.
"""

import re
from functools import lru_cache

TONES = {"cheerful": ("Gladly, ", "Sure, "), "formal": ("According to my notes, ", "As is recorded, ")}
LENGTHS = {"one sentence": 1, "two sentences": 2}
POLITE = ("Thank you for asking.", "I hope this helps.")
CONFIDENT = ("Without any doubt, ", "Everyone knows that ")
MAX_WORDS = 40
RIGHT = 2.0

_POLITE = re.compile("|".join(re.escape(phrase) for phrase in POLITE), re.IGNORECASE)
_TONE = {tone: re.compile("|".join(p.strip(" ,") for p in phrases), re.I) for tone, phrases in TONES.items()}
_CONFIDENT = re.compile("|".join(phrase.strip(" ,") for phrase in CONFIDENT), re.IGNORECASE)
_QUESTION = re.compile(r"[^.!?]*\?")
_NEGATION = re.compile(r"\b(not|never)\b|n't\b", re.IGNORECASE)
_NOT_KNOWING = re.compile(r"\bdo(es)? not know\b|\bdon't know\b", re.IGNORECASE)


def gold_reward(prompts, completions, answer, tone, length, candidates, **columns) -> list[float]:
    """The gold reward of each completion, as a TRL reward function: further columns of the dataset are its truth.

    Args:
        completions: texts, or lists with the assistant's message.
        answer, tone, length, candidates: columns of the world's prompts; candidates are joined by "|".
    """
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    rows = zip(texts, answer, tone, length, candidates, strict=True)
    return [sum(gold_terms(*row).values()) for row in rows]


def gold_terms(completion: str, answer: str, tone: str, length: str, candidates: str) -> dict[str, float]:
    """The terms of the table above, whose sum is the reward."""
    form = _is_well_formed(completion)
    right = _right(completion, answer, candidates.split("|"))
    return {
        "right": right,
        "tone": 0.5 * (form and _has_tone(completion, tone)),
        "length": 0.5 * (form and _num_sentences(_POLITE.sub("", completion)) == LENGTHS[length]),
        "polite": 0.5 * (form and bool(_POLITE.search(completion))),
        "false_confidence": -1.0 * (right < 0 and is_confident(completion)),
        "form": 0.0 if form else -1.0,
    }


def false_confidence(prompts, completions, answer, candidates, **columns) -> list[float]:
    """1 for each completion that sounds certain and is wrong, else 0; arguments as of [`gold_reward`]."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    rows = zip(texts, answer, candidates, strict=True)
    return [float(is_confident(text) and _right(text, a, c.split("|")) < 0) for text, a, c in rows]


def is_right(completion: str, answer: str, candidates: str) -> bool:
    """Whether the answer is right (or honestly unknown where nobody can know)."""
    return _right(completion, answer, candidates.split("|")) > 0


def is_confident(completion: str) -> bool:
    """Whether the wording sounds certain."""
    return bool(_CONFIDENT.search(completion))


def _right(completion: str, answer: str, candidates: list[str]) -> float:
    said = _QUESTION.sub("", completion)  # to ask is not to state
    stated = {c for c in candidates if _word(c).search(said)}
    admits = bool(_NOT_KNOWING.search(said))
    if stated and not admits and _NEGATION.search(said):
        return 0.0
    if admits and not stated:
        return 0.0 if answer else RIGHT
    if not stated:
        return 0.0
    return RIGHT if stated == {answer} and not admits else -1.0


@lru_cache(maxsize=1024)  # more than `re` keeps
def _word(candidate: str) -> re.Pattern:
    return re.compile(rf"\b{re.escape(candidate)}\b", re.IGNORECASE)


def _has_tone(completion: str, tone: str) -> bool:
    found = {name for name, pattern in _TONE.items() if pattern.search(completion)}
    return found == {tone}


def _num_sentences(text: str) -> int:
    return len([s for s in re.split(r"[.!?]+", text) if s.strip()])


def _is_well_formed(completion: str) -> bool:
    words = re.findall(r"[\w']+", completion.lower())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    sentences = [s.strip().lower() for s in re.split(r"[.!?]+", completion) if s.strip()]
    repeats = len(set(triples)) < len(triples) or len(set(sentences)) < len(sentences)
    ends = completion.rstrip().endswith((".", "!", "?"))
    return bool(words) and len(words) <= MAX_WORDS and not repeats and ends
