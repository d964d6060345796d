"""What a model's answers are worth: gold reward, reward-model reward, KL to a reference, accuracy."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.evaluation.generation import Completion, generate
from hfcourse.evaluation.kl import sequence_kl
from hfcourse.evaluation.prompting import SEPARATOR
from hfcourse.evaluation.statistics import estimate
from hfcourse.models.reward_model import score

# The columns that the world's gold reward reads; a dataset without them has no gold.
GOLD_COLUMNS = ("answer", "tone", "length", "candidates")


def answer_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    shown: list | None = None,
    **generation,
) -> tuple[list[Completion], list[dict]]:
    """Completions of the rows' prompts (or of `shown`, the prompts with examples before them) and a record of each."""
    few_shot = shown is not None
    prompts = [row["prompt"] for row in rows]
    stop = SEPARATOR if few_shot else None
    completions = generate(model, tokenizer, shown if few_shot else prompts, stop=stop, **generation)
    columns = ("task", *GOLD_COLUMNS)
    records = [
        {
            "prompt": row["prompt"],
            "completion": completion.text.strip(),
            "finished": completion.finished,
            "length_tokens": len(completion.ids),
            **{name: row[name] for name in columns if name in row},
        }
        for row, completion in zip(rows, completions, strict=True)
    ]
    return completions, records


def add_gold(records: list[dict]) -> None:
    """`gold_reward` and `right` of each record, where the dataset has a gold."""
    from hfcourse.world import gold_reward, is_right

    for r in records:
        if set(GOLD_COLUMNS) <= r.keys():
            (r["gold_reward"],) = gold_reward(None, [r["completion"]], **{name: [r[name]] for name in GOLD_COLUMNS})
            r["right"] = float(is_right(r["completion"], r["answer"], r["candidates"]))


def add_proxy(records: list[dict], reward_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """`proxy_reward` of each record: the reward model's."""
    chat = bool(records) and isinstance(records[0]["prompt"], list)
    answers = [[{"role": "assistant", "content": r["completion"]}] if chat else " " + r["completion"] for r in records]
    finished = [r["finished"] for r in records]
    rewards = score(reward_model, tokenizer, [r["prompt"] for r in records], answers, finished)
    for record, reward in zip(records, rewards, strict=True):
        record["proxy_reward"] = reward


def add_kl(
    records: list[dict], completions: list[Completion], policy: PreTrainedModel, reference: PreTrainedModel, **options
) -> None:
    """`kl` of each record: KL(policy ‖ reference) along the completion, in nats."""
    for record, value in zip(records, sequence_kl(policy, reference, completions, **options), strict=True):
        record["kl"] = value


def summarize(records: list[dict]) -> dict[str, float]:
    """Means and standard errors (`…_se`) of whatever was measured."""
    names = {"gold_reward": "gold_reward", "proxy_reward": "proxy_reward", "kl": "kl", "right": "accuracy"}
    summary: dict[str, float] = {"num_prompts": len(records)}
    for column, name in {**names, "length_tokens": "mean_length", "finished": "finished"}.items():
        if column in records[0]:
            mean, se = estimate([float(record[column]) for record in records])
            summary |= {name: mean, f"{name}_se": se}
    return summary
