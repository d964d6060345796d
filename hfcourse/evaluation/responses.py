"""What a model's answers are worth: gold reward, reward-model reward, KL to a reference, accuracy."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.evaluation.generation import Completion, tokenize_prompts
from hfcourse.evaluation.kl import sequence_kl
from hfcourse.evaluation.statistics import estimate
from hfcourse.models.reward_model import score
from hfcourse.world import gold_reward, is_right

# The columns that the world's gold reward reads; a dataset without them has no gold.
GOLD_COLUMNS = ("answer", "tone", "length", "candidates")

# A record's measurements and what their means are called.
MEASURES = {
    "gold_reward": "gold_reward",
    "proxy_reward": "proxy_reward",
    "kl": "kl",
    "right": "accuracy",
    "num_tokens": "mean_length",
    "finished": "finished",
}


def records_of(rows: list[dict], completions: list[Completion]) -> list[dict]:
    """One record a prompt: what was asked, what was answered, and the columns that the gold needs."""
    return [
        {
            "prompt": row["prompt"],
            "completion": completion.text,
            "finished": completion.finished,
            "num_tokens": len(completion.ids),
            **{name: row[name] for name in ("task", *GOLD_COLUMNS) if name in row},
        }
        for row, completion in zip(rows, completions, strict=True)
    ]


def add_gold(records: list[dict]) -> None:
    """`gold_reward` and `right` of each record, where the dataset has a gold."""
    for r in records:
        if set(GOLD_COLUMNS) <= r.keys():
            (r["gold_reward"],) = gold_reward(None, [r["completion"]], **{name: [r[name]] for name in GOLD_COLUMNS})
            r["right"] = is_right(r["completion"], r["answer"], r["candidates"])


def add_proxy(
    records: list[dict], reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 64
) -> None:
    """`proxy_reward` of each record: the reward model's, which reads the prompt without examples before it."""
    chat = bool(records) and isinstance(records[0]["prompt"], list)
    answers = [[{"role": "assistant", "content": r["completion"]}] if chat else r["completion"] for r in records]
    prompts, finished = [r["prompt"] for r in records], [r["finished"] for r in records]
    rewards = score(reward_model, tokenizer, prompts, answers, finished, batch_size)
    for record, reward in zip(records, rewards, strict=True):
        record["proxy_reward"] = reward


def add_kl(
    records: list[dict],
    completions: list[Completion],
    model: PreTrainedModel,
    ref_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    temperature: float = 1.0,
) -> None:
    """`kl` of each record, in nats: the model as it was asked, against the reference without examples before it."""
    ref_prompt_ids = tokenize_prompts(tokenizer, [r["prompt"] for r in records])
    values = sequence_kl(model, ref_model, completions, ref_prompt_ids, temperature)
    for record, value in zip(records, values, strict=True):
        record["kl"] = value


def summarize(records: list[dict]) -> dict[str, float]:
    """Means and standard errors (`…_se`) of whatever was measured."""
    summary: dict[str, float] = {"num_prompts": len(records)}
    for column, name in MEASURES.items():
        if column in records[0]:
            summary[name], summary[f"{name}_se"] = estimate([float(record[column]) for record in records])
    return summary
