"""Annotators that give each answer a number, the higher the better: reward models, likelihood, ratings that exist."""

import math
from collections.abc import Callable, Sequence

from hfcourse.data.preferences import Answer, Comparison
from hfcourse.errors import InputError


class ScoreAnnotator:
    """Prefers the answer with the higher score; P(a) = σ(s(a) - s(b)), a tie below `tie_below`.

    Args:
        score: (prompts, answers) -> a number each.
    """

    def __init__(self, name: str, score: Callable[[list, list], Sequence[float]], tie_below: float = 0.0):
        self.name, self.score, self.tie_below = name, score, tie_below

    def __call__(self, comparisons: list[Comparison]) -> list[list[dict]]:
        prompts = [c.row["prompt"] for c in comparisons for _ in range(2)]
        answers = [answer.text for c in comparisons for answer in (c.a, c.b)]
        scores = self.score(prompts, answers)
        return [[self._verdict(*pair)] for pair in zip(scores[::2], scores[1::2], strict=True)]

    def _verdict(self, a: float, b: float) -> dict:
        difference = a - b
        tie = difference == 0 or abs(difference) < self.tie_below
        choice = "tie" if tie else ("a" if difference > 0 else "b")
        p_a = 0.5 * (1 + math.tanh(difference / 2))  # σ, without overflow
        return {"annotator": self.name, "choice": choice, "p_a": p_a, "margin": abs(difference)}


def reward_model_annotator(model, tokenizer, name: str, tie_below: float = 0.0) -> ScoreAnnotator:
    """A reward model, or an ensemble of heads, as annotator; `margin` is the difference of rewards."""
    from hfcourse.models.reward_model import score

    def rewards(prompts: list, answers: list) -> list[float]:
        chat = isinstance(prompts[0], list)
        texts = [[{"role": "assistant", "content": a}] if chat else a for a in answers]
        return score(model, tokenizer, prompts, texts)

    return ScoreAnnotator(name, rewards, tie_below)


def likelihood_annotator(model, tokenizer, name: str, tie_below: float = 0.0) -> ScoreAnnotator:
    """A language model that prefers what it would sooner write itself: mean log p(token) of the answer and its EOS."""
    from hfcourse.evaluation.multiple_choice import choice_logps

    def likelihood(prompts: list, answers: list) -> list[float]:
        if isinstance(prompts[0], list):
            prompts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
        ends = [answer + (tokenizer.eos_token or "") for answer in answers]
        logps = choice_logps(model, tokenizer, prompts, [[text] for text in ends])
        lengths = [len(ids) for ids in tokenizer(ends, add_special_tokens=False)["input_ids"]]
        return [logp[0] / length for logp, length in zip(logps, lengths, strict=True)]

    return ScoreAnnotator(name, likelihood, tie_below)


def rated_answers(rows: list[dict], rating_column: str) -> tuple[list[dict], list[list[Answer]], ScoreAnnotator]:
    """Answers that were rated already, as prompts, their answers and the annotator that reads the ratings.

    Args:
        rows: either of UltraFeedback's shape, `instruction` and `completions` ({"response", "model", rating}), or a
            row an answer with `prompt`, `completion` and the rating; rows of one prompt belong together.

    Raises:
        InputError: a column is missing, or a rating is no number.
    """
    by_prompt: dict[str, tuple[dict, list[Answer]]] = {}
    ratings: dict[tuple[str, str], float] = {}
    for i, row in enumerate(rows):
        prompt = row.get("prompt", row.get("instruction"))
        nested = row.get("completions")
        for rated in nested if nested is not None else [row]:
            text = rated.get("response", rated.get("completion"))
            if prompt is None or text is None or rated.get(rating_column) is None:
                raise InputError(
                    f"rating_column={rating_column}: row {i} lacks it, a prompt or a completion; it has {sorted(row)}"
                )
            _, answers = by_prompt.setdefault(str(prompt), ({**row, "prompt": prompt}, []))
            answers.append(Answer(text, rated.get("model") or "unknown"))
            ratings[str(prompt), text] = _number(rated[rating_column], rating_column, i)

    def read(prompts: list, answers: list) -> list[float]:
        return [ratings[str(prompt), answer] for prompt, answer in zip(prompts, answers, strict=True)]

    annotator = ScoreAnnotator(f"column:{rating_column}", read)
    return [row for row, _ in by_prompt.values()], [answers for _, answers in by_prompt.values()], annotator


def _number(rating, column: str, i: int) -> float:
    try:
        value = float(rating)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"rating_column={column}: row {i} has {rating!r}, which is no number")
    return value
