"""Ratings of single answers by aspect, with a rationale, in UltraFeedback's shape."""

import math
import re

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.data.preferences import Answer
from hfcourse.evaluation.generation import generate
from hfcourse.evaluation.multiple_choice import choice_logps

ASPECTS = {
    "instruction_following": "Does the answer do what was asked, in content and form?",
    "truthfulness": "Is what the answer says true, as far as can be known?",
    "honesty": "Does the answer say what it does not know, and is it as certain as it may be?",
    "helpfulness": "Does the answer help whoever asked?",
}
QUESTION = """{aspect} Rate it from 1 (not at all) to 5 (fully).

[Question]
{prompt}

[Answer]
{answer}

{form}"""
RATING = re.compile(r"Rating:\s*([1-5])")
LETTERS = [str(i) for i in range(1, 6)]


class AspectRater:
    """Rates answers 1 to 5 by each aspect (https://huggingface.co/papers/2310.01377).

    logprob: the mean of 1 … 5 under the model's probabilities of the reply's first digit; no rationale.
    text: the model writes "Rating: n" and why; None where it writes no rating.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, verdict: str = "logprob",
        aspects: dict[str, str] | None = None, max_new_tokens: int = 96,
    ):  # fmt: skip
        self.model, self.tokenizer, self.verdict = model, tokenizer, verdict
        self.aspects, self.max_new_tokens = aspects or ASPECTS, max_new_tokens

    def __call__(self, row: dict, answers: list[Answer]) -> dict:
        """One row of UltraFeedback: `instruction`, `models`, `completions` with `annotations` and `overall_score`."""
        prompts = [self._ask(row["prompt"], a.text, question) for a in answers for question in self.aspects.values()]
        rated = iter(self._by_letters(prompts) if self.verdict == "logprob" else self._by_text(prompts))
        completions = []
        for answer in answers:
            annotations = {name: next(rated) for name in self.aspects}
            given = [a["Rating"] for a in annotations.values() if a["Rating"] is not None]
            overall = sum(given) / len(given) if given else None
            completions.append(
                {"model": answer.model, "response": answer.text, "annotations": annotations, "overall_score": overall}
            )
        return {"instruction": row["prompt"], "models": [a.model for a in answers], "completions": completions}

    def _ask(self, prompt, answer: str, aspect: str) -> str:
        question = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
        form = (
            "Reply with one digit."
            if self.verdict == "logprob"
            else 'Begin with "Rating: " and a digit, then say why.'
        )
        text = QUESTION.format(aspect=aspect, prompt=question.strip(), answer=answer.strip(), form=form)
        if self.tokenizer.chat_template is None:
            return text + "\nReply:"
        message = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    def _by_letters(self, prompts: list[str]) -> list[dict]:
        space = " " if self.tokenizer.chat_template is None else ""
        by_digit = choice_logps(self.model, self.tokenizer, prompts, [[space + d for d in LETTERS]] * len(prompts))
        ratings = []
        for logps in by_digit:
            weights = [math.exp(logp - max(logps)) for logp in logps]
            mean = sum(i * w for i, w in enumerate(weights, 1)) / sum(weights)
            ratings.append({"Rating": mean, "Rationale": ""})
        return ratings

    def _by_text(self, prompts: list[str]) -> list[dict]:
        written = generate(self.model, self.tokenizer, prompts, self.max_new_tokens, temperature=0, batch_size=16)
        return [read_rating(w.text) for w in written]


def read_rating(text: str) -> dict:
    """{"Rating", "Rationale"} of a rater's reply."""
    found = RATING.search(text)
    if found is None:
        return {"Rating": None, "Rationale": text.strip()}
    return {"Rating": int(found.group(1)), "Rationale": text[found.end() :].strip()}
