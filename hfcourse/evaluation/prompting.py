"""Few-shot prompts: examples instead of gradient steps."""

import random

# What parts two examples; a model that goes on with a new example has finished its answer.
SEPARATOR = "\n\n"


def few_shot_prompts(prompts: list[str], examples: list[dict[str, str]], num_shots: int, seed: int = 0) -> list[str]:
    """Each prompt behind `num_shots` examples drawn for it at random.

    Args:
        prompts: texts, in the form of the examples' prompts.
        examples: rows with `prompt` and `completion`.
        num_shots: k; 0 gives the prompts as they are.
        seed: prompt i draws its examples from (seed, i) alone.
    """
    shown = []
    for i, prompt in enumerate(prompts):
        drawn = random.Random(f"shots/{seed}/{i}").sample(examples, num_shots)
        shown.append(SEPARATOR.join([*(row["prompt"] + row["completion"] for row in drawn), prompt]))
    return shown
