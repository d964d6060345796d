"""Two answers to one prompt, as an annotator sees them, and the preference row that comes of it."""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

# What the gold reward of the embedded world is computed from.
GOLD_COLUMNS = ("answer", "tone", "length", "candidates")


class Answer(NamedTuple):
    """text, and the name of what wrote it."""

    text: str
    model: str


class Comparison(NamedTuple):
    """Answer a is shown first, answer b second; which of the two that is was drawn by chance.

    id: digest of prompt and answers. number: its place among the comparisons. row: the prompt, with its columns.
    """

    id: str
    number: int
    row: dict
    a: Answer
    b: Answer


def compare_all(rows: list[dict], answers: Sequence[Sequence[Answer]], seed: int = 0) -> list[Comparison]:
    """Every two answers to each prompt. Equal and empty ones teach nothing and are left out, and pairs seen before.

    Args:
        rows: with `prompt`, a text or messages.
        answers: of each row.
        seed: of which answer is shown first.
    """
    made, seen = [], set()
    for row, of_row in zip(rows, answers, strict=True):
        for first, second in combinations(of_row, 2):
            if first.text.strip() == second.text.strip() or not first.text.strip() or not second.text.strip():
                continue
            key = "\x00".join([str(row["prompt"]), first.text, second.text])
            digest = hashlib.sha256(f"{seed}\x00{key}".encode()).digest()
            if digest in seen:
                continue
            seen.add(digest)
            a, b = (first, second) if digest[-1] % 2 else (second, first)
            made.append(Comparison(digest[:12].hex(), len(made), row, a, b))
    return made


def decide(verdicts: Sequence[dict]) -> str:
    """The choice of the majority of those who did not skip; a tie where a and b are chosen alike often."""
    votes = [verdict["choice"] for verdict in verdicts if verdict["choice"] != "skip"]
    if not votes:
        return "skip"
    a, b = votes.count("a"), votes.count("b")
    return "tie" if a == b else ("a" if a > b else "b")


def preference_row(comparison: Comparison, verdicts: Sequence[dict], seed: int) -> dict | None:
    """TRL's `prompt`, `chosen`, `rejected`, and where the pair comes from; None for a tie or a skip.

    Provenance: id, annotator (those who judged), model_chosen, model_rejected, seed, shown_first ("chosen" or
    "rejected"), agreement (share of the annotators who chose alike), and whatever the first verdict adds.
    """
    choice = decide(verdicts)
    if choice not in ("a", "b"):
        return None
    chosen, rejected = (comparison.a, comparison.b) if choice == "a" else (comparison.b, comparison.a)
    chat = isinstance(comparison.row["prompt"], list)

    def side(answer: Answer):
        return [{"role": "assistant", "content": answer.text}] if chat else answer.text

    judged = [verdict for verdict in verdicts if verdict["choice"] != "skip"]
    extra = {n: v for n, v in judged[0].items() if n not in ("choice", "annotator", "p_a", "orders")}
    p_a = [verdict["p_a"] for verdict in judged if verdict.get("p_a") is not None]
    if p_a:
        extra["p_chosen"] = sum(p_a) / len(p_a) if choice == "a" else 1 - sum(p_a) / len(p_a)
    return {
        "prompt": comparison.row["prompt"],
        "chosen": side(chosen),
        "rejected": side(rejected),
        "id": comparison.id,
        "annotator": "+".join(verdict["annotator"] for verdict in judged),
        "model_chosen": chosen.model,
        "model_rejected": rejected.model,
        "seed": seed,
        "shown_first": "chosen" if choice == "a" else "rejected",
        "agreement": sum(verdict["choice"] == choice for verdict in judged) / len(judged),
        **extra,
    }
