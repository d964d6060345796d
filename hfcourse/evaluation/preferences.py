"""How often a reward, a model's or DPO's implicit one, prefers what people preferred, how sure of it it may be, and
whether it pays length."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError
from hfcourse.evaluation import calibration
from hfcourse.evaluation.generation import tokenize_prompts
from hfcourse.evaluation.multiple_choice import sequence_logps
from hfcourse.models.reward_model import render, score_heads


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
    prompts = _prompts(rows)
    chosen, rejected = (
        score_heads(model, tokenizer, prompts, [row[side] for row in rows], batch_size=batch_size)
        for side in ("chosen", "rejected")
    )
    by_head = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(chosen, rejected, strict=True)]
    margins = [sum(heads) / len(heads) for heads in by_head]
    report = _report(tokenizer, rows, margins)
    if len(by_head[0]) > 1:
        means = zip(by_head, margins, strict=True)
        deviations = [(sum((m - mean) ** 2 for m in heads) / (len(heads) - 1)) ** 0.5 for heads, mean in means]
        report["margin_std"] = sum(deviations) / len(deviations)
    return report


def measure_implicit_reward(
    model: PreTrainedModel,
    ref_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    beta: float = 0.1,
) -> dict[str, object]:
    """The same report for a policy as its own reward model (course notes, 2.5), Δr of

        r(x, y) = β log π(y|x) / π_ref(y|x)

    Args:
        model, ref_model: π, trained by DPO, and π_ref, which it started from.
        rows: as [`measure_reward_model`] takes them; a prompt must have tokens.
        beta: DPO's β. The accuracy does not depend on it, how sure the policy is does.
    """
    prompts = _prompts(rows)
    is_chat = isinstance(prompts[0], list)
    prompt_ids = tokenize_prompts(tokenizer, prompts)
    rewards = []
    for side in ("chosen", "rejected"):
        texts = [render(tokenizer, prompt, row[side], True) for prompt, row in zip(prompts, rows, strict=True)]
        ids = tokenizer(texts, add_special_tokens=not is_chat)["input_ids"]
        answers = [whole[len(prompt) :] for whole, prompt in zip(ids, prompt_ids, strict=True)]
        logps, ref_logps = (sequence_logps(m, prompt_ids, answers) for m in (model, ref_model))
        rewards.append([beta * (a - b) for a, b in zip(logps, ref_logps, strict=True)])
    return _report(tokenizer, rows, [a - b for a, b in zip(*rewards, strict=True)])


def _prompts(rows: list[dict]) -> list:
    if not rows:
        raise InputError("there are no pairs to measure the reward on")
    return [row.get("prompt", [] if isinstance(row["chosen"], list) else "") for row in rows]


def _report(tokenizer: PreTrainedTokenizerBase, rows: list[dict], margins: list[float]) -> dict[str, object]:
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
    return report


def _length(tokenizer: PreTrainedTokenizerBase, answer: str | list[dict]) -> int:
    text = answer if isinstance(answer, str) else "".join(message["content"] for message in answer)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
