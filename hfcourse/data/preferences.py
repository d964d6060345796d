"""Preference pairs from simulated people, in TRL's format with where each pair comes from."""

import json
import os
from pathlib import Path
from statistics import fmean

from hfcourse.world import Annotators, gold_reward

GOLD_COLUMNS = ("answer", "tone", "length", "candidates")


def label_by_annotators(
    people: Annotators, rows: list[dict], pairs: list[tuple[str, str]], model: str
) -> tuple[list[dict], dict]:
    """Let one person of the pool, in turn, choose between the two answers to each prompt.

    Args:
        rows: prompts of the world, with their gold columns.
        pairs: two answers to each; a pair of equal answers teaches nothing and is dropped.
        model: who wrote them.

    Returns:
        Rows with `prompt`, `chosen`, `rejected` and provenance; and a report: pairs, dropped, Bayes accuracy, and how
        often the choice agrees with the gold reward (ties of the gold aside).
    """
    kept, kept_rows, kept_pairs = [], [], []
    for i, (row, (a, b)) in enumerate(zip(rows, pairs, strict=True)):
        if a.strip() == b.strip() or not a.strip() or not b.strip():
            continue
        annotator = i % people.num_annotators
        chosen, rejected = (a, b) if people.compare(row, a, b, annotator) else (b, a)
        truth = {name: [row[name]] for name in GOLD_COLUMNS}
        kept_rows.append(row)
        kept_pairs.append((a, b))
        kept.append(
            {
                "prompt": row["prompt"],
                "chosen": chosen,
                "rejected": rejected,
                "annotator": annotator,
                "model": Path(model).name,
                "p_chosen": people.preference(row, chosen, rejected),
                "gold_chosen": gold_reward(None, [chosen], **truth)[0],
                "gold_rejected": gold_reward(None, [rejected], **truth)[0],
            }
        )
    decided = [r["gold_chosen"] > r["gold_rejected"] for r in kept if r["gold_chosen"] != r["gold_rejected"]]
    report = {
        "pairs": len(kept),
        "dropped_identical": len(rows) - len(kept),
        "bayes_accuracy": people.bayes_accuracy(kept_rows, kept_pairs) if kept else None,
        "agrees_with_gold": fmean(decided) if decided else None,
    }
    return kept, report


def write_jsonl(rows: list[dict], path: Path) -> None:
    """Write rows as json lines, all or nothing: a run that is killed leaves no half file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, path)
