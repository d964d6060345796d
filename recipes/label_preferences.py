"""Make a preference dataset: sample answers to each prompt, let the world's annotators compare them.

    python recipes/label_preferences.py --model_name_or_path my_sft_model --dataset_name world/prompts \
        --num_train_examples 1500 --num_eval_examples 400 --template four_part_en --output_dir pairs

Writes train.jsonl and test.jsonl (`prompt`, `chosen`, `rejected`, and where they come from: `annotator`, `model`,
`p_chosen`, `gold_chosen`, `gold_rejected`) and preferences.json: the pairs dropped because both answers were the same,
and the annotators' Bayes accuracy, which no reward model can exceed. A file that is there is not made again.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from hfcourse.pipeline.launch import ScriptArguments, load_causal_lm, load_tokenizer, parse, recipe


@dataclass
class LabelArguments:
    """Who writes and who judges."""

    output_dir: str = field(metadata={"help": "Where the pairs go."})
    num_annotators: int = field(
        default=8, metadata={"help": "People in the pool; each pair is judged by one of them."}
    )
    max_completion_length: int = field(default=32, metadata={"help": "Tokens an answer may have."})
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling."})
    batch_size: int = field(default=64, metadata={"help": "Prompts generated at once."})
    seed: int = field(default=0, metadata={"help": "Of the sampling and of the people."})


def main():
    from trl import ModelConfig

    from hfcourse.data import load_dataset
    from hfcourse.data.preferences import label_by_annotators, write_jsonl
    from hfcourse.data.templates import apply_template
    from hfcourse.evaluation.generation import generate
    from hfcourse.world import Annotators

    script_args, args, model_args = parse(ScriptArguments, LabelArguments, ModelConfig, description=__doc__)
    columns = ("answer", "tone", "length", "candidates")
    model, tokenizer = load_causal_lm(model_args), load_tokenizer(model_args.model_name_or_path)
    people, folder = Annotators(args.num_annotators, args.seed), Path(args.output_dir)
    done = folder / "preferences.json"
    report = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    splits = {
        "train": (script_args.dataset_train_split, script_args.num_train_examples),
        "test": (script_args.dataset_test_split, script_args.num_eval_examples),
    }
    for offset, (name, (split, count)) in enumerate(splits.items()):
        if name in report:
            continue
        rows = load_dataset(script_args.dataset_name, split=split, num_examples=count, required_columns=columns)
        rows = list(apply_template(rows, script_args.template or "four_part_en"))
        answers = [
            generate(
                model,
                tokenizer,
                [row["prompt"] for row in rows],
                args.max_completion_length,
                args.temperature,
                args.batch_size,
                seed=1000 * args.seed + 2 * offset + k,
            )
            for k in range(2)
        ]
        pairs = [(a.text, b.text) for a, b in zip(*answers, strict=True)]
        kept, report[name] = label_by_annotators(people, rows, pairs, model_args.model_name_or_path)
        write_jsonl(kept, folder / f"{name}.jsonl")
        write_jsonl([report], done)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    recipe(main)
