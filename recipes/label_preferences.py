"""Make preference data: models answer each prompt, somebody compares the answers.

    python recipes/label_preferences.py --config recipes/configs/label_preferences/llama1m_world.yaml
    python recipes/label_preferences.py --model_name_or_path my_sft --dataset_name prompts.jsonl --annotator judge \\
        --judge_model my_chat_model --constitution rules.txt --output_dir preferences
    python recipes/label_preferences.py --annotator ratings --dataset_name openbmb/UltraFeedback

| annotator      | who judges                                                                                        |
|----------------|---------------------------------------------------------------------------------------------------|
| `world`        | simulated people of the embedded world, with noise, taste and, if asked for, position bias        |
| `judge`        | a chat model or any causal LM: both orders, by a letter's probability or by text, ties            |
| `likelihood`   | a language model: what it would sooner write                                                      |
| `reward_model` | a reward model                                                                                    |
| `ratings`      | ratings that the dataset has (`--rating_column`); nothing is sampled                              |
| `terminal`     | you: a, b, tie or skip; stop with q and go on later                                               |

Writes train.parquet and test.parquet with TRL's columns (`prompt`, `chosen`, `rejected`) and where each pair comes
from, and preferences.json: how many pairs were left out, agreement (Cohen's and Fleiss' kappa), flip rate, position
and length bias, and on the world accuracy and the Bayes accuracy, which no reward model can exceed on average.
Answers cut at the limit are left out. Nothing is labelled twice: run it again after a kill.
"""

import json
from pathlib import Path

from hfcourse.errors import InputError
from hfcourse.pipeline.labelling import LabelArguments
from hfcourse.pipeline.launch import ScriptArguments, load_causal_lm, load_tokenizer, one_process_only, parse, recipe


def load_models(args: LabelArguments, model_args) -> dict[str, tuple]:
    from hfcourse.pipeline.measure import place

    models = {}
    for name in args.answer_models or [model_args.model_name_or_path]:
        if name is None:
            raise InputError("model_name_or_path: is required, or answer_models, unless annotator=ratings")
        model_args.model_name_or_path = name
        models[name] = place(load_causal_lm(model_args)), load_tokenizer(name)
    return models


def main():
    one_process_only()
    from trl import ModelConfig

    from hfcourse.annotation.scorers import rated_answers
    from hfcourse.data import apply_template, load_dataset
    from hfcourse.data.preferences import GOLD_COLUMNS
    from hfcourse.pipeline.files import claim_folder
    from hfcourse.pipeline.labelling import WORK, annotator_of, finish, label_split, rate_aspects, sample_answers

    script_args, args, model_args = parse(ScriptArguments, LabelArguments, ModelConfig, description=__doc__)
    rated, folder, dtype = args.annotator == "ratings", Path(args.output_dir), model_args.dtype
    models = {} if rated else load_models(args, model_args)
    annotator = None if rated else annotator_of(args, dtype)
    claim_folder(folder, {"data": vars(script_args), "answers": vars(args), "models": list(models)})
    report = json.loads((folder / "preferences.json").read_text()) if (folder / "preferences.json").is_file() else {}
    splits = {"train": (script_args.dataset_train_split, script_args.num_train_examples)}
    splits["test"] = (script_args.dataset_test_split, script_args.num_eval_examples)
    for offset, (split, (source_split, count)) in enumerate(splits.items()):
        if split in report:
            continue
        columns = GOLD_COLUMNS if args.annotator == "world" else ()
        rows = load_dataset(script_args.dataset_name, source_split, num_examples=count, required_columns=columns)
        rows = list(apply_template(rows, script_args.template) if script_args.template else rows)
        if rated:
            rows, answers, annotator = rated_answers(rows, args.rating_column)
            num_tokens = 0
        else:
            path = folder / WORK / f"answers_{split}.jsonl"
            answers, num_tokens = sample_answers(args, models, rows, 2 * args.seed + offset, path)
        if args.aspects:
            rate_aspects(args, dtype, rows, answers, split)
        described = label_split(args, annotator, rows, answers, split)
        if described is None:
            print(f"{split}: stopped; run it again to go on")
            return
        finish(folder / "preferences.json", report, split, {**described, "num_tokens": num_tokens})


if __name__ == "__main__":
    recipe(main)
