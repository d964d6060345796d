"""Several reward models as one careful reward: what they agree on counts, what one of them alone likes does not."""

import statistics
from collections.abc import Sequence

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hfcourse.errors import InputError
from hfcourse.models.reward_model import load_reward_model, score_heads

COMBINATIONS = {
    "mean": statistics.fmean,
    "min": min,
    "lower": lambda rewards: statistics.fmean(rewards) - statistics.pstdev(rewards),
}


class RewardEnsemble:
    """A reward function for PPO and REINFORCE: `reward_funcs=RewardEnsemble(["seed_0", "seed_1"], "min")`.

        mean: (1/K) Σ_k RM_k        min: min_k RM_k        lower: mean - standard deviation
        (https://huggingface.co/papers/2310.02743: the careful ones are hacked later)

    The members may be models of several seeds, ensembles of heads, or both; every head has one vote. Each is centred
    by its own `reward_mean`, for a constant that another seed adds would decide the minimum.

    Args:
        members: folders or Hub ids of reward models, or (model, tokenizer).
        combine: "mean", "min" or "lower".
    """

    __name__ = "reward_ensemble"

    def __init__(
        self, members: Sequence[str | tuple[PreTrainedModel, PreTrainedTokenizerBase]], combine: str = "mean"
    ):
        if combine not in COMBINATIONS:
            raise InputError(f"combine={combine}: must be one of {', '.join(COMBINATIONS)}")
        if not members:
            raise InputError("members: an ensemble needs at least one reward model")
        self.members = [
            (load_reward_model(m), AutoTokenizer.from_pretrained(m)) if isinstance(m, str) else m for m in members
        ]
        self.combine = COMBINATIONS[combine]

    def heads(self, prompts: list, completions: list, finished: list[bool] | None = None) -> list[list[float]]:
        """The reward of every head of every member, for each completion."""
        by_member = [score_heads(*member, prompts, completions, finished) for member in self.members]
        return [[reward for heads in rows for reward in heads] for rows in zip(*by_member, strict=True)]

    def __call__(self, prompts, completions, completion_ids=None, **columns) -> list[float]:
        eos_token_ids = {tokenizer.eos_token_id for _, tokenizer in self.members}
        finished = completion_ids and [bool(ids) and ids[-1] in eos_token_ids for ids in completion_ids]
        return [self.combine(heads) for heads in self.heads(prompts, completions, finished)]
