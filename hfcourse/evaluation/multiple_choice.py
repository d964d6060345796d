"""Multiple choice by likelihood: a model's answer is the choice that it finds likeliest after the question."""

from collections import defaultdict

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError
from hfcourse.evaluation.kl import batches_by_length, completion_logits
from hfcourse.evaluation.statistics import estimate
from hfcourse.logprobs import token_logps

MAX_TOKENS_PER_BATCH = 8192


@torch.no_grad()
def sequence_logps(model: PreTrainedModel, prompts: list[list[int]], completions: list[list[int]]) -> list[float]:
    """log π(y|x) = Σ_t log π(y_t|x, y_<t) of each completion, from token ids; the empty one's is 0."""
    values = [0.0] * len(completions)
    lengths = [len(x) + len(y) for x, y in zip(prompts, completions, strict=True)]
    for rows in batches_by_length(lengths, MAX_TOKENS_PER_BATCH):
        chosen = [completions[i] for i in rows]
        logits, mask = completion_logits(model, [prompts[i] for i in rows], chosen)
        labels = torch.tensor([token for ids in chosen for token in ids], device=logits.device)
        logps, _ = token_logps(logits[mask], labels)
        for i, of_row in zip(rows, logps.split([len(ids) for ids in chosen]), strict=True):
            values[i] = of_row.sum().item()
    return values


def choice_logps(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], choices: list[list[str]]
) -> list[list[float]]:
    """log p(choice | prompt) = Σ_t log p(token_t), for every choice of every question.

    Args:
        prompts: what stands before the choice.
        choices: of each prompt, with the white space that parts them from it. Prompt and choice are tokenized apart,
            so that what is scored does not depend on where the prompt ends.

    Raises:
        InputError: a prompt or a choice without tokens.
    """
    contexts, answers = [], []
    for ids, texts in zip(tokenizer(prompts)["input_ids"], choices, strict=True):
        contexts += [ids] * len(texts)
        answers += tokenizer(texts, add_special_tokens=False)["input_ids"]
    if not all(contexts) or not all(answers):
        raise InputError("choices: a question or a choice has no tokens; leave such rows out")
    remaining = iter(sequence_logps(model, contexts, answers))
    return [[next(remaining) for _ in texts] for texts in choices]


def measure_multiple_choice(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict]
) -> dict[str, float | dict]:
    """Accuracy on rows of MMLU's columns (question, choices, answer, perhaps subject), asked "Question: …⏎Answer:".

    `accuracy` takes the likeliest choice, `accuracy_norm` the likeliest a character, so that a short choice has no
    start over a long one (lm-eval's acc and acc_norm).
    """
    prompts = [f"Question: {row['question']}\nAnswer:" for row in rows]
    logps = choice_logps(model, tokenizer, prompts, [[f" {c}" for c in row["choices"]] for row in rows])
    per_character = [
        [logp / len(choice) for logp, choice in zip(values, row["choices"], strict=True)]
        for values, row in zip(logps, rows, strict=True)
    ]
    answers = [row["answer"] for row in rows]
    hits, hits_norm = hits_of(logps, answers), hits_of(per_character, answers)
    of_subject = defaultdict(list)
    for row, hit in zip(rows, hits, strict=True):
        of_subject[row.get("subject", "all")].append(hit)
    (accuracy, se), (accuracy_norm, se_norm) = estimate(hits), estimate(hits_norm)
    return {
        "num_questions": len(rows),
        "accuracy": accuracy,
        "accuracy_se": se,
        "accuracy_norm": accuracy_norm,
        "accuracy_norm_se": se_norm,
        "subjects": {s: {"accuracy": sum(h) / len(h), "num_questions": len(h)} for s, h in sorted(of_subject.items())},
    }


def hits_of(scores: list[list[float]], answers: list[int]) -> list[float]:
    """1 where the right choice has the largest score (of equal ones the first counts), else 0."""
    return [float(row.index(max(row)) == answer) for row, answer in zip(scores, answers, strict=True)]
