"""Measure a model: on benchmarks by lm-eval, or on held-out data, of which the columns decide what is measured.

    python recipes/evaluate.py --config recipes/configs/evaluate/llama1m_world.yaml
    python recipes/evaluate.py --model_name_or_path my_model --dataset_name prompts.jsonl --dataset_test_split train \\
        --reward_model_path my_reward_model --ref_model_name_or_path my_sft_model --output_dir results
    python recipes/evaluate.py --model_name_or_path my_model --tasks world my_task.yaml mmlu=data/mmlu \\
        gsm8k_cot=data/gsm8k.jsonl --limit 20 --output_dir results

| columns                            | what is measured                                                               |
|------------------------------------|--------------------------------------------------------------------------------|
| `prompt`, or those of a --template | answers: length, `proxy_reward` with a reward model, `kl` with a reference;    |
|                                    | `gold_reward` and `accuracy` on the world's prompts                            |
| `chosen`, `rejected`, and no model | the reward model: accuracy with its interval, reliability (reward_model.png),  |
|                                    | correlation with length, accuracy by how clear the labels are                  |
| `question`, `choices`, `answer`    | multiple choice by likelihood, by subject                                      |
| `text`                             | perplexity and bits per byte                                                   |

Writes evaluation.json (means and their standard errors, versions) and, for answers, samples.jsonl with one record a
prompt, so that two models can be compared prompt by prompt.

With --tasks the model may be a decoder, an encoder-decoder or an adapter. Files are named with `=`; a name alone is
lm-eval's, from the Hub. Writes benchmarks.json, benchmarks.md and benchmarks.png, all with standard errors, and
tasks/<task>.json as each task ends: an interrupted run goes on with the next.
"""

from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.pipeline.benchmarks import BenchmarkArguments, run_benchmarks
from hfcourse.pipeline.files import write_text
from hfcourse.pipeline.launch import ScriptArguments, load_causal_lm, load_tokenizer, one_process_only, parse, recipe
from hfcourse.pipeline.measure import MeasureArguments, load_rows, measure_answers, place, write_evaluation


def measure(rows, columns: set[str], script_args, args, model_args) -> dict:
    from hfcourse.evaluation import measure_multiple_choice, measure_reward_model, perplexity
    from hfcourse.models.reward_model import load_reward_model
    from hfcourse.report.reward_figure import write_reward_figure

    if {"chosen", "rejected"} <= columns and model_args.model_name_or_path is None:
        if args.reward_model_path is None:
            raise InputError("reward_model_path: is required to measure on pairs of chosen and rejected")
        reward_model = place(load_reward_model(args.reward_model_path, model_args.dtype))
        tokenizer = load_tokenizer(args.reward_model_path)
        report = measure_reward_model(reward_model, tokenizer, rows, args.per_device_eval_batch_size)
        write_reward_figure(report, Path(args.output_dir) / "reward_model.png")
        return report
    if "prompt" in columns:
        return measure_answers(rows, script_args, args, model_args)
    if not ({"choices", "text"} & columns):
        raise InputError(
            f"dataset_name: nothing to measure in the columns {sorted(columns)}; is a --template missing?"
        )
    model, tokenizer = place(load_causal_lm(model_args)), load_tokenizer(model_args.model_name_or_path)
    if "choices" in columns:
        return measure_multiple_choice(model, tokenizer, rows)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", 1024)
    return perplexity(model, tokenizer, [row["text"] for row in rows], max_length=min(limit, 1024))


def measure_benchmarks(benchmarks, args, model_args) -> None:
    from hfcourse.report.benchmarks import benchmarks_figure, benchmarks_markdown

    results = run_benchmarks(benchmarks, model_args, args.output_dir, args.per_device_eval_batch_size, args.seed)
    write_text(Path(args.output_dir) / "benchmarks.md", benchmarks_markdown(results))
    benchmarks_figure(results).savefig(Path(args.output_dir) / "benchmarks.png", dpi=120)


def main():
    one_process_only()
    from trl import ModelConfig

    script_args, args, benchmarks, model_args = parse(
        ScriptArguments, MeasureArguments, BenchmarkArguments, ModelConfig, description=__doc__
    )
    if benchmarks.tasks:
        return measure_benchmarks(benchmarks, args, model_args)
    dataset = load_rows(script_args)
    measured_on = model_args.model_name_or_path or args.reward_model_path
    summary = measure(list(dataset), set(dataset.column_names), script_args, args, model_args)
    write_evaluation(args, script_args, measured_on, summary)


if __name__ == "__main__":
    recipe(main)
