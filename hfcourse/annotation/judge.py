"""A language model as judge: shown both answers in both orders, under a constitution that may be your own."""

import math
import re

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.data.preferences import Comparison
from hfcourse.evaluation.generation import generate
from hfcourse.evaluation.multiple_choice import choice_logps

CONSTITUTION = (
    "Prefer the answer that is right, that does what was asked, that says so when it does not know, and that is "
    "polite. Do not prefer an answer because it is longer, sounds certain, or stands first."
)
QUESTION = """{constitution}

[Question]
{prompt}

[Answer A]
{a}

[Answer B]
{b}

Which answer is better? {form}"""
FORMS = {
    "logprob": "Reply with one letter, A or B.",
    "text": "Explain in a sentence, then end with [[A]], [[B]] or, if they are equally good, [[C]].",
}
VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")


class LLMJudge:
    """Judges by a causal LM, chat or not; a verdict counts if it survives a swap of the answers.

    logprob: P(A) = p(A) / (p(A) + p(B)) of the reply's first letter, averaged over both orders of the answers.
    text: the model writes; the last [[A]], [[B]] or [[C]] (a tie) in its text is the verdict of that order, as in
        MT-Bench (https://huggingface.co/papers/2306.05685), and what stands before it is the rationale.
    Orders that contradict each other are a tie. `orders` keeps both verdicts, mapped back, for flip rate and position
    bias ([`hfcourse.annotation.report`]).

    Args:
        constitution: what the judge is to look for; your own text instead of CONSTITUTION.
        tie_below: with "logprob", a tie where |P - ½| is less.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, verdict: str = "logprob",
        constitution: str | None = None, tie_below: float = 0.0, max_new_tokens: int = 128, batch_size: int = 16,
    ):  # fmt: skip
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.verdict, self.constitution = verdict, constitution or CONSTITUTION
        self.tie_below, self.max_new_tokens, self.batch_size = tie_below, max_new_tokens, batch_size

    def __call__(self, comparisons: list[Comparison]) -> list[list[dict]]:
        shown = [
            (c.row["prompt"], *pair) for c in comparisons for pair in ((c.a.text, c.b.text), (c.b.text, c.a.text))
        ]
        prompts = [self._ask(*texts) for texts in shown]
        judge = self._by_letters if self.verdict == "logprob" else self._by_text
        replies = judge(prompts)
        return [[self._combine(*pair)] for pair in zip(replies[::2], replies[1::2], strict=True)]

    def _ask(self, prompt, a: str, b: str) -> str:
        question = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
        text = QUESTION.format(
            constitution=self.constitution, prompt=question.strip(), a=a.strip(), b=b.strip(), form=FORMS[self.verdict]
        )
        if self.tokenizer.chat_template is None:
            return text + "\nReply:"
        message = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    def _by_letters(self, prompts: list[str]) -> list[tuple[str, float, str]]:
        space = " " if self.tokenizer.chat_template is None else ""
        logps = choice_logps(self.model, self.tokenizer, prompts, [[f"{space}A", f"{space}B"]] * len(prompts))
        first = [0.5 * (1 + math.tanh((a - b) / 2)) for a, b in logps]
        return [("A" if p > 0.5 else "B" if p < 0.5 else "C", p, "") for p in first]

    def _by_text(self, prompts: list[str]) -> list[tuple[str, float, str]]:
        size, limit = self.batch_size, self.max_new_tokens
        written = generate(self.model, self.tokenizer, prompts, limit, temperature=0, batch_size=size)
        return [read_verdict(w.text) for w in written]

    def _combine(self, first: tuple[str, float, str], second: tuple[str, float, str]) -> dict:
        """`first`: a shown first; `second`: b shown first."""
        orders = [{"A": "a", "B": "b"}.get(first[0], first[0]), {"A": "b", "B": "a"}.get(second[0], second[0])]
        orders = [{"C": "tie", "?": "skip"}.get(order, order) for order in orders]
        p_a = (first[1] + 1 - second[1]) / 2
        if "skip" in orders:
            choice = "skip"
        elif self.verdict == "logprob" and abs(p_a - 0.5) < self.tie_below:
            choice = "tie"
        else:
            choice = orders[0] if orders[0] == orders[1] else "tie"
        return {"annotator": self.name, "choice": choice, "p_a": p_a, "orders": orders, "rationale": first[2]}


def read_verdict(text: str) -> tuple[str, float, str]:
    """(A, B, C or "?" where there is none; P(A), 1, 0 or ½; the rationale before it) of a judge's reply."""
    found = list(VERDICT.finditer(text))
    if not found:
        return "?", 0.5, text.strip()
    letter = found[-1].group(1)
    return letter, {"A": 1.0, "B": 0.0, "C": 0.5}[letter], text[: found[-1].start()].strip()
