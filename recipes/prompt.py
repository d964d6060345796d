"""Prompting, the method that trains nothing: instructions, examples, step by step, and the answer that many agree on.

    python recipes/prompt.py --config recipes/configs/prompt/llama1m_world.yaml
    python recipes/prompt.py --model_name_or_path my_model --dataset_name questions.jsonl --template alpaca \\
        --shots_dataset_name answered.jsonl --num_shots 4 --output_dir results
    python recipes/prompt.py --model_name_or_path my_model --dataset_name gsm8k.jsonl \\
        --dataset_test_split train[:50] --template chain_of_thought --shots_dataset_name gsm8k.jsonl \\
        --shots_split train[100:] --num_shots 4 --shots_strategy similar --extract number --num_samples 8 \\
        --temperature 0.7 --output_dir results

A pretrained model goes on with what it sees: after a few questions with their answers it answers the next, and a blank
line ends its answer. Writes the evaluation.json and samples.jsonl of `recipes/evaluate.py`.

With --extract (number, letter, line, or a regular expression) answers are compared with the dataset's: `accuracy`, its
standard error, and with --num_samples the accuracy of the most frequent answer among k samples (self-consistency), as
`accuracy_by_k` and accuracy_by_k.png. Beside it stands what it cost in tokens and seconds. answers.jsonl keeps what
was written: a run that was killed goes on, and one that asks for the same again asks the model nothing.
"""

from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, one_process_only, parse, recipe
from hfcourse.pipeline.measure import load_rows, measure_answers, write_evaluation
from hfcourse.pipeline.prompting import PromptArguments, measure_prompting


def main():
    one_process_only()
    from trl import ModelConfig

    script_args, args, model_args = parse(ScriptArguments, PromptArguments, ModelConfig, description=__doc__)
    dataset, measured_on = load_rows(script_args), model_args.model_name_or_path
    if "prompt" not in dataset.column_names:
        raise InputError(f"dataset_name: has no prompts, only {sorted(dataset.column_names)}; give a --template")
    if args.extract is None:
        summary = measure_answers(list(dataset), script_args, args, model_args)
    else:
        summary = measure_prompting(list(dataset), script_args, args, model_args)
        if args.num_samples > 1:
            from hfcourse.report.prompting import accuracy_by_k_figure

            accuracy_by_k_figure(summary).savefig(Path(args.output_dir) / "accuracy_by_k.png", dpi=120)
    write_evaluation(args, script_args, measured_on, summary)


if __name__ == "__main__":
    recipe(main)
