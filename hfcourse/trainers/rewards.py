"""Rewards: models and functions that score a rollout, checked, and as a command line names them."""

import functools
import math
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import get_callable_name, is_async_callable

from hfcourse.errors import InputError
from hfcourse.models.adapters import RewardAdapter
from hfcourse.models.reward_model import score


class RewardModelFunction:
    """A reward model as a reward function: reads each answer as it was in training, its EOS included."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int]):
        self.model, self.tokenizer, self.eos_token_ids = model, tokenizer, eos_token_ids
        path = model.path if isinstance(model, RewardAdapter) else model.config._name_or_path
        self.__name__ = path.rstrip("/").split("/")[-1] or "reward_model"

    def __call__(self, prompts, completions, completion_ids, **columns) -> list[float]:
        finished = [ids[-1] in self.eos_token_ids for ids in completion_ids]
        return score(self.model, self.tokenizer, prompts, completions, finished)


def checked(reward_func: Callable) -> Callable:
    """The same reward function, which stops the run at what is no reward, before it can poison the policy.

    `None` for a completion stays what it is in TRL: this function has no opinion on it.

    Raises:
        InputError: (when called) a NaN, an infinity, no number, or another number of rewards than of completions.
            What the function itself raises goes on, with a note that names the function.
    """
    name = get_callable_name(reward_func)

    def check(rewards, completions):
        if rewards is None or len(rewards) != len(completions):
            got = "None" if rewards is None else f"{len(rewards)} rewards"
            raise InputError(f"reward function '{name}': returned {got} for {len(completions)} completions")
        for i, reward in enumerate(rewards):
            if reward is not None and not _is_finite(reward):
                raise InputError(f"reward function '{name}': row {i} of the batch got {reward}; it must be finite")
        return rewards

    @contextmanager
    def named():
        try:
            yield
        except Exception as error:
            error.add_note(f"raised by reward function '{name}'")
            raise

    if is_async_callable(reward_func):

        async def call(*, completions, **columns):
            with named():
                rewards = await reward_func(completions=completions, **columns)
            return check(rewards, completions)

    else:

        def call(*, completions, **columns):
            with named():
                rewards = reward_func(completions=completions, **columns)
            return check(rewards, completions)

    functools.update_wrapper(call, reward_func)
    call.__name__ = name
    return call


def _is_finite(reward) -> bool:
    try:
        return math.isfinite(reward)
    except TypeError:  # a text, a list
        return False


def load_reward_funcs(model_paths: list[str] | None, dotted_paths: list[str] | None) -> list[str | Callable]:
    """Reward functions as a command line names them: models by path or Hub id, functions as `module.function`.

    Raises:
        InputError: neither is given, or a function cannot be imported.
    """
    functions = [_import_function(path) for path in dotted_paths or ()]
    if not (model_paths or functions):
        raise InputError("reward: give --reward_model_path, --reward_funcs, or both")
    return [*(model_paths or ()), *functions]


def _import_function(dotted_path: str) -> Callable:
    module, _, name = dotted_path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError) as e:
        raise InputError(f"reward_funcs: cannot import '{dotted_path}': {e}") from e
