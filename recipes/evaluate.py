"""Measure a model's answers on held-out prompts.

    python recipes/evaluate.py --model_name_or_path my_model --dataset_name world/prompts --num_eval_examples 400 \
        --template four_part_en --reward_model_path my_reward_model --ref_model_path my_sft_model --output_dir results

Writes `evaluation.json` (means with standard errors) and `samples.jsonl` (one row a prompt, so that two models can be
compared prompt by prompt). What can be measured depends on what is given: `gold_reward` and `accuracy` on the world's
prompts, `proxy_reward` with a reward model, `kl` with a reference. With `--num_shots` the model reads examples first,
as in `recipes/prompt.py`. On a dataset with `chosen` and `rejected`, the reward model's accuracy is measured instead.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from hfcourse.pipeline.launch import ScriptArguments, load_causal_lm, load_tokenizer, parse, recipe


@dataclass
class EvaluateArguments:
    """What to measure, and with what."""

    output_dir: str = field(metadata={"help": "Where evaluation.json and samples.jsonl go."})
    reward_model_path: str | None = field(default=None, metadata={"help": "Reward model for `proxy_reward`."})
    ref_model_path: str | None = field(default=None, metadata={"help": "Model that `kl` is measured from."})
    num_shots: int = field(default=0, metadata={"help": "Examples before each prompt, from the train split."})
    shots_dataset_name: str | None = field(default=None, metadata={"help": "Dataset of the examples."})
    max_completion_length: int = field(default=32, metadata={"help": "Tokens a completion may have."})
    temperature: float = field(default=1.0, metadata={"help": "0 is greedy."})
    batch_size: int = field(default=64, metadata={"help": "Prompts generated at once."})
    multiple_choice: str | None = field(
        default=None, metadata={"help": "Dataset of MMLU's columns, e.g. world/multiple_choice."}
    )
    seed: int = field(default=0, metadata={"help": "Of the sampling."})


def main():
    from trl import ModelConfig

    from hfcourse.data import load_dataset
    from hfcourse.data.templates import apply_template
    from hfcourse.evaluation.multiple_choice import multiple_choice_hits
    from hfcourse.evaluation.preferences import measure_reward_model
    from hfcourse.evaluation.prompting import few_shot_prompts
    from hfcourse.evaluation.responses import add_gold, add_kl, add_proxy, answer_prompts, summarize
    from hfcourse.evaluation.statistics import estimate
    from hfcourse.models.reward_model import load_reward_model

    script_args, args, model_args = parse(ScriptArguments, EvaluateArguments, ModelConfig, description=__doc__)
    split, count = script_args.dataset_test_split, script_args.num_eval_examples
    dataset = load_dataset(script_args.dataset_name, split=split, num_examples=count)
    if script_args.template:
        dataset = apply_template(dataset, script_args.template)
    proxy = args.reward_model_path and (
        load_reward_model(args.reward_model_path),
        load_tokenizer(args.reward_model_path),
    )

    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if {"chosen", "rejected"} <= set(dataset.column_names):
        summary, records = measure_reward_model(*proxy, list(dataset)), []
    else:
        model, tokenizer = load_causal_lm(model_args), load_tokenizer(model_args.model_name_or_path)
        rows, shown = list(dataset), None
        if args.num_shots:
            examples = load_dataset(args.shots_dataset_name, split="train", num_examples=200)
            examples = apply_template(examples, script_args.template)
            shown = few_shot_prompts([row["prompt"] for row in rows], list(examples), args.num_shots, args.seed)
        options = dict(max_new_tokens=args.max_completion_length, temperature=args.temperature, seed=args.seed)
        completions, records = answer_prompts(model, tokenizer, rows, shown, batch_size=args.batch_size, **options)
        add_gold(records)
        if proxy:
            add_proxy(records, *proxy)
        if args.ref_model_path:
            model_args.model_name_or_path = args.ref_model_path
            add_kl(records, completions, model, load_causal_lm(model_args), temperature=args.temperature or 1.0)
        summary = summarize(records)
        if args.multiple_choice:
            hits = multiple_choice_hits(
                model, tokenizer, list(load_dataset(args.multiple_choice, split, num_examples=count))
            )
            summary |= dict(zip(("multiple_choice", "multiple_choice_se"), estimate(hits), strict=True))
    (folder / "samples.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))
    (folder / "evaluation.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    recipe(main)
