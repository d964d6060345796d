"""Few-shot prompts: examples instead of gradient steps (https://huggingface.co/papers/2005.14165)."""

import random

from hfcourse.errors import InputError

# What parts two examples; a model that goes on with a new example has finished its answer.
SEPARATOR = "\n\n"


def few_shot_prompts(prompts: list[str], examples: list[dict[str, str]], num_shots: int, seed: int = 0) -> list[str]:
    """Each prompt behind `num_shots` examples drawn for it at random: p₁c₁ ⏎⏎ … p_k c_k ⏎⏎ prompt.

    Args:
        prompts: texts, in the form of the examples' prompts.
        examples: rows with `prompt` and `completion`.
        num_shots: k; 0 gives the prompts as they are.
        seed: prompt i draws its examples from (seed, i) alone.

    Raises:
        InputError: fewer examples than shots.
    """
    if num_shots > len(examples):
        raise InputError(f"num_shots={num_shots}: there are only {len(examples)} examples")
    shown = []
    for i, prompt in enumerate(prompts):
        drawn = random.Random(f"shots/{seed}/{i}").sample(examples, num_shots)
        shown.append(SEPARATOR.join([*(row["prompt"] + row["completion"] for row in drawn), prompt]))
    return shown
