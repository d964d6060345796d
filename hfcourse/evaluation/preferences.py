"""How often a reward model prefers what people preferred, how sure of it it may be, and whether it pays length."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError
from hfcourse.evaluation import calibration
from hfcourse.models.reward_model import score_heads


def measure_reward_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict], batch_size: int = 32
) -> dict[str, object]:
    """A report on pairs ([`hfcourse.evaluation.calibration`]): accuracy with its interval, reliability, length.

    Args:
        rows: with `chosen` and `rejected`, as texts or messages, and perhaps the `prompt` before them; a `margin`, or
            `p_chosen`, how likely people are to agree, tells how clear each label is.

    Returns:
        num_pairs, accuracy (a tie is a mistake) and accuracy_low, accuracy_high; margin, loss, calibration_error;
        length_correlation, longer_preferred, longer_chosen; reliability and, where labels have a strength,
        accuracy_by_label, lists of bins; margin_std, the heads' disagreement, for an ensemble.
    """
    if not rows:
        raise InputError("there are no pairs to measure the reward model on")
    prompts = [row.get("prompt", [] if isinstance(row["chosen"], list) else "") for row in rows]
    chosen, rejected = (
        score_heads(model, tokenizer, prompts, [row[side] for row in rows], batch_size=batch_size)
        for side in ("chosen", "rejected")
    )
    by_head = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(chosen, rejected, strict=True)]
    margins = [sum(heads) / len(heads) for heads in by_head]
    lengths = [_length(tokenizer, row["chosen"]) - _length(tokenizer, row["rejected"]) for row in rows]
    bins = calibration.reliability(margins)
    report = {
        "num_pairs": len(rows),
        **calibration.accuracy(margins),
        "margin": sum(margins) / len(rows),
        "loss": calibration.loss(margins),
        "calibration_error": calibration.calibration_error(bins),
        **calibration.length_bias(margins, lengths),
        "reliability": bins,
    }
    strength = next((name for name in ("p_chosen", "margin") if name in rows[0]), None)
    if strength:
        report["accuracy_by_label"] = calibration.by_label(margins, [row[strength] for row in rows])
    if len(by_head[0]) > 1:
        means = zip(by_head, margins, strict=True)
        deviations = [(sum((m - mean) ** 2 for m in heads) / (len(heads) - 1)) ** 0.5 for heads, mean in means]
        report["margin_std"] = sum(deviations) / len(deviations)
    return report


def _length(tokenizer: PreTrainedTokenizerBase, answer: str | list[dict]) -> int:
    text = answer if isinstance(answer, str) else "".join(message["content"] for message in answer)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
