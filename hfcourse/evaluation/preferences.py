"""How often a reward model prefers what people preferred."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError
from hfcourse.evaluation.statistics import wilson_interval
from hfcourse.models.reward_model import score


def measure_reward_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict], batch_size: int = 32
) -> dict[str, float | int]:
    """Accuracy on pairs, which a tie lowers like a mistake, with its 95 % interval, and the mean margin.

    Args:
        rows: with `chosen` and `rejected`, as texts or messages, and perhaps the `prompt` before them.
    """
    if not rows:
        raise InputError("there are no pairs to measure the reward model on")
    prompts = [row.get("prompt", [] if isinstance(row["chosen"], list) else "") for row in rows]
    chosen, rejected = (
        score(model, tokenizer, prompts, [row[side] for row in rows], batch_size=batch_size)
        for side in ("chosen", "rejected")
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
