"""Make preference data: a model answers each prompt twice or more, people compare the answers.

    python recipes/label_preferences.py --config recipes/configs/label_preferences/llama1m_world.yaml

The people are those of the embedded world. Writes train.parquet and test.parquet with TRL's columns (`prompt`,
`chosen`, `rejected`) and where each pair comes from (`annotator`, `model`, `seed`, `p_chosen`, `gold_chosen`,
`gold_rejected`), and preferences.json: how many pairs were left out, how often people agree, and the Bayes accuracy,
which no reward model can exceed on average. Pairs of equal answers are left out, and answers cut at the limit. A run
that was killed keeps the split that it had finished.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, load_causal_lm, load_tokenizer, one_process_only, parse, recipe


@dataclass
class LabelArguments:
    _argument_group_name = "answers and people"

    output_dir: str = field(default="preferences", metadata={"help": "Folder of the pairs."})
    num_generations: int = field(default=2, metadata={"help": "Answers to a prompt; every two of them are compared."})
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling."})
    max_completion_length: int = field(default=64, metadata={"help": "Tokens an answer may have."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Prompts answered at once."})
    num_annotators: int = field(default=8, metadata={"help": "People; each pair is judged by one of them."})
    seed: int = field(default=0, metadata={"help": "Of the sampling and of the people."})


def main():
    one_process_only()
    from datasets import Dataset
    from trl import ModelConfig

    from hfcourse.data import apply_template, load_dataset
    from hfcourse.data.preferences import GOLD_COLUMNS, describe_labels, label_by_annotators
    from hfcourse.evaluation import generate
    from hfcourse.pipeline.files import claim_folder, write_json
    from hfcourse.pipeline.measure import place
    from hfcourse.world import Annotators

    script_args, args, model_args = parse(ScriptArguments, LabelArguments, ModelConfig, description=__doc__)
    name, people, folder = model_args.model_name_or_path, Annotators(args.num_annotators, args.seed), args.output_dir
    model, tokenizer = place(load_causal_lm(model_args)), load_tokenizer(name)
    claim_folder(Path(folder), {"data": vars(script_args), "answers": vars(args), "model": name})
    splits = {
        "train": (script_args.dataset_train_split, script_args.num_train_examples),
        "test": (script_args.dataset_test_split, script_args.num_eval_examples),
    }
    report_file = Path(folder) / "preferences.json"
    report = json.loads(report_file.read_text(encoding="utf-8")) if report_file.is_file() else {}
    for offset, (split, (source_split, count)) in enumerate(splits.items()):
        if split in report:
            continue
        rows = load_dataset(script_args.dataset_name, source_split, num_examples=count, required_columns=GOLD_COLUMNS)
        rows = list(apply_template(rows, script_args.template) if script_args.template else rows)
        prompts = [row["prompt"] for row in rows for _ in range(args.num_generations)]
        limit, size = args.max_completion_length, args.per_device_eval_batch_size
        written = generate(model, tokenizer, prompts, limit, args.temperature, size, 2 * args.seed + offset)
        texts = iter([w.text if w.finished else "" for w in written])
        answers = [[next(texts) for _ in range(args.num_generations)] for _ in rows]
        pairs = label_by_annotators(people, rows, answers, name, args.seed)
        if not pairs:
            raise InputError(f"{split}: no two finished answers to a prompt differ; raise temperature or the limit")
        Dataset.from_list(pairs).to_parquet(f"{folder}/{split}.partial")
        os.replace(f"{folder}/{split}.partial", f"{folder}/{split}.parquet")
        left_out = len(rows) * args.num_generations * (args.num_generations - 1) // 2 - len(pairs)
        num_tokens = sum(len(w.prompt_ids) + len(w.ids) for w in written)
        report[split] = {**describe_labels(pairs), "num_left_out": left_out, "num_tokens": num_tokens}
        write_json(report_file, report)  # last: what it tells of is finished
        print(f"{split}: {report[split]}")


if __name__ == "__main__":
    recipe(main)
