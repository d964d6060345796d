"""Preference pairs from simulated people, in TRL's format and with where each pair comes from."""

from itertools import combinations
from statistics import fmean

from hfcourse.world import Annotators, gold_reward

GOLD_COLUMNS = ("answer", "tone", "length", "candidates")


def label_by_annotators(
    people: Annotators, rows: list[dict], answers: list[list[str]], model: str, seed: int
) -> list[dict]:
    """One person of the pool, in turn, chooses between every two answers to a prompt.

    Args:
        rows: prompts of the world, with their gold columns.
        answers: texts, of each prompt. A pair of equal or empty texts teaches nothing and is left out.
        model, seed: who wrote them; kept as provenance.

    Returns:
        Rows of `prompt`, `chosen`, `rejected`, `annotator`, `model`, `seed`, `p_chosen` (how likely somebody else of
        the pool is to choose alike), `gold_chosen` and `gold_rejected`.
    """
    kept = []
    for row, texts in zip(rows, answers, strict=True):
        truth = {name: [row[name]] for name in GOLD_COLUMNS}
        for a, b in combinations(texts, 2):
            if a.strip() == b.strip() or not a.strip() or not b.strip():
                continue
            annotator = len(kept) % people.num_annotators
            chosen, rejected = (a, b) if people.compare(row, a, b, annotator) else (b, a)
            kept.append(
                {
                    "prompt": row["prompt"],
                    "chosen": chosen,
                    "rejected": rejected,
                    "annotator": annotator,
                    "model": model,
                    "seed": seed,
                    "p_chosen": people.preference(row, chosen, rejected),
                    "gold_chosen": gold_reward(None, [chosen], **truth)[0],
                    "gold_rejected": gold_reward(None, [rejected], **truth)[0],
                }
            )
    return kept


def describe_labels(pairs: list[dict]) -> dict[str, float | int]:
    """What can be expected of anybody who learns from these labels.

    bayes_accuracy = mean max(p, 1 - p)          the best guess of a stranger's choice
    agreement      = mean p² + (1 - p)²          two strangers choose alike
    agrees_with_gold: share of the choices that the gold reward makes too, where it is not a tie
    """
    p = [pair["p_chosen"] for pair in pairs]
    decided = [q["gold_chosen"] > q["gold_rejected"] for q in pairs if q["gold_chosen"] != q["gold_rejected"]]
    description: dict[str, float | int] = {"num_pairs": len(pairs)}
    if p:
        description["bayes_accuracy"] = fmean(max(x, 1 - x) for x in p)
        description["agreement"] = fmean(x * x + (1 - x) * (1 - x) for x in p)
    if decided:
        description["agrees_with_gold"] = fmean(decided)
    return description
