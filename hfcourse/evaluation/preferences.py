"""How often a reward model prefers what people preferred."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.evaluation.statistics import wilson_interval
from hfcourse.models.reward_model import score


def measure_reward_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict]
) -> dict[str, float | int]:
    """Accuracy on pairs (`prompt`, `chosen`, `rejected`; a tie counts as wrong) with its 95 % interval, mean margin."""
    prompts = [row.get("prompt", "") for row in rows]
    chosen, rejected = (
        score(model, tokenizer, prompts, [row[side] for row in rows]) for side in ("chosen", "rejected")
    )
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    hits = sum(margin > 0 for margin in margins)
    low, high = wilson_interval(hits, len(rows))
    return {
        "num_pairs": len(rows),
        "accuracy": hits / len(rows),
        "accuracy_low": low,
        "accuracy_high": high,
        "margin": sum(margins) / len(rows),
    }
