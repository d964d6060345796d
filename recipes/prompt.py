"""Prompting, the method that trains nothing: a few examples with answers before each question.

    python recipes/prompt.py --config recipes/configs/prompt/llama1m_world.yaml
    python recipes/prompt.py --model_name_or_path my_model --dataset_name questions.jsonl --template alpaca \\
        --shots_dataset_name answered.jsonl --num_shots 4 --output_dir results

A pretrained model goes on with what it sees: after a few questions with their answers it answers the next, and a blank
line ends its answer. Writes the evaluation.json and samples.jsonl of `recipes/evaluate.py`.
"""

from dataclasses import dataclass

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, one_process_only, parse, recipe
from hfcourse.pipeline.measure import MeasureArguments, load_rows, measure_answers, write_evaluation


@dataclass
class PromptArguments(MeasureArguments):
    num_shots: int = 4


def main():
    one_process_only()
    from trl import ModelConfig

    script_args, args, model_args = parse(ScriptArguments, PromptArguments, ModelConfig, description=__doc__)
    dataset = load_rows(script_args)
    if "prompt" not in dataset.column_names:
        raise InputError(f"dataset_name: has no prompts, only {sorted(dataset.column_names)}; give a --template")
    measured_on = model_args.model_name_or_path
    write_evaluation(args, script_args, measured_on, measure_answers(list(dataset), script_args, args, model_args))


if __name__ == "__main__":
    recipe(main)
