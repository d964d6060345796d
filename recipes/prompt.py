"""Prompting, the method that trains nothing: examples before the question (few-shot).

    python recipes/prompt.py --model_name_or_path my_pretrained_model --dataset_name world/prompts \
        --num_eval_examples 400 --shots_dataset_name world/instructions --num_shots 4 --output_dir results

The pretrained model goes on with what it sees: after a few questions with their answers it answers the next. This is
`recipes/evaluate.py` with `--num_shots 4` and `--template four_part_en`, and takes all of its flags.
"""

import runpy
import sys
from pathlib import Path


def main():
    given = set(sys.argv)
    defaults = {"--num_shots": "4", "--template": "four_part_en"}
    sys.argv += [word for flag, value in defaults.items() if flag not in given for word in (flag, value)]
    runpy.run_path(str(Path(__file__).with_name("evaluate.py")), run_name="__main__")


if __name__ == "__main__":
    main()
