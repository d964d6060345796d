"""What `evaluate` and `prompt` share: a model answers prompts, and everything that can be measured is written down."""

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hfcourse.errors import InputError
from hfcourse.pipeline.files import write_json, write_jsonl
from hfcourse.pipeline.launch import ScriptArguments, load_causal_lm, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel
    from trl import ModelConfig

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "hfcourse")


@dataclass
class MeasureArguments:
    """How the model answers, and what its answers are measured with."""

    _argument_group_name = "measurement"

    output_dir: str = field(default="evaluation", metadata={"help": "Folder of evaluation.json and samples.jsonl."})
    reward_model_path: str | None = field(
        default=None, metadata={"help": "Reward model of `proxy_reward`: folder or Hub id."}
    )
    ref_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model that `kl` is measured from, e.g. the SFT model."}
    )
    max_completion_length: int = field(default=64, metadata={"help": "Tokens an answer may have."})
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling; 0 takes the likeliest token."})
    stop_string: str | None = field(
        default=None, metadata={"help": "Ends an answer as EOS does. With shots: the blank line between them."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Prompts answered at once."})
    num_shots: int = field(default=0, metadata={"help": "Examples with answers before each prompt."})
    shots_dataset_name: str | None = field(
        default=None, metadata={"help": "Where they come from: a dataset with answers, for the same --template."}
    )
    shots_split: str = field(default="train", metadata={"help": "Split of the examples."})
    num_shots_pool: int = field(default=64, metadata={"help": "Examples that people write; shots are drawn of them."})
    seed: int = field(default=0, metadata={"help": "Of the samples and of the choice of shots."})

    def __post_init__(self):
        if self.num_shots and self.shots_dataset_name is None:
            raise InputError("shots_dataset_name: is required with num_shots (a dataset with prompts and answers)")


def place(model: "PreTrainedModel") -> "PreTrainedModel":
    """On the accelerator, where there is one; quantised models are there already."""
    from accelerate import PartialState

    return model if getattr(model, "is_quantized", False) else model.to(PartialState().device)


def load_rows(script_args: ScriptArguments) -> "Dataset":
    """The test split, in its template if one is named; with all the columns that it has."""
    from hfcourse.data import apply_template, load_dataset

    split, count = script_args.dataset_test_split, script_args.num_eval_examples
    rows = load_dataset(script_args.dataset_name, split, script_args.dataset_config, num_examples=count)
    return apply_template(rows, script_args.template, inverted=False) if script_args.template else rows


def measure_answers(rows: list[dict], script_args: ScriptArguments, args: MeasureArguments, model_args: "ModelConfig"):
    """Answer the rows' prompts; write samples.jsonl, a record a prompt, into `output_dir`; return the means.

    Returns:
        `num_prompts`, and means with standard errors (`…_se`) of what can be measured: `gold_reward` and `accuracy`
        where the rows have a gold, `proxy_reward` with a reward model, `kl` with a reference, `mean_length`,
        `finished`.
    """
    from hfcourse.evaluation.generation import generate
    from hfcourse.evaluation.responses import add_gold, add_kl, add_proxy, records_of, summarize
    from hfcourse.models.reward_model import load_reward_model

    model, tokenizer = place(load_causal_lm(model_args)), load_tokenizer(model_args.model_name_or_path)
    prompts, stop = _shown_prompts(rows, script_args, args)
    size = args.per_device_eval_batch_size
    completions = generate(
        model, tokenizer, prompts, args.max_completion_length, args.temperature, size, args.seed, stop
    )
    records = records_of(rows, completions)
    add_gold(records)
    if args.reward_model_path:
        reward_model = place(load_reward_model(args.reward_model_path, model_args.dtype))
        add_proxy(records, reward_model, load_tokenizer(args.reward_model_path), size)
    if args.ref_model_name_or_path:
        model_args.model_name_or_path = args.ref_model_name_or_path
        add_kl(records, completions, model, place(load_causal_lm(model_args)), tokenizer, args.temperature)
    write_jsonl(Path(args.output_dir) / "samples.jsonl", records)
    return summarize(records)


def write_evaluation(args: MeasureArguments, script_args: ScriptArguments, measured_on: str | None, summary: dict):
    """evaluation.json: the numbers, what they were measured on, and with which versions. Prints the numbers."""
    about = {"dataset": script_args.dataset_name, "split": script_args.dataset_test_split, "model": measured_on}
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    names = ("temperature", "max_completion_length", "stop_string", "num_shots", "num_shots_pool", "seed")
    sampling = {name: getattr(args, name) for name in (*names, *getattr(args, "also_written", ()))}
    write_json(Path(args.output_dir) / "evaluation.json", {**summary, **about, **sampling, "versions": versions})
    for name, value in summary.items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")


def _shown_prompts(rows: list[dict], script_args: ScriptArguments, args: MeasureArguments) -> tuple[list, str | None]:
    from hfcourse.evaluation.prompting import SEPARATOR, few_shot_prompts

    prompts = [row["prompt"] for row in rows]
    if not args.num_shots:
        return prompts, args.stop_string
    if isinstance(prompts[0], list):
        raise InputError("num_shots: chat prompts take no examples; give text prompts, e.g. with --template")
    pool = shots_pool(script_args, args)
    return few_shot_prompts(prompts, pool, args.num_shots, args.seed), args.stop_string or SEPARATOR


def shots_pool(script_args: ScriptArguments, args: MeasureArguments) -> list[dict]:
    """The rows that examples are chosen from. Raises InputError where they have no answers."""
    from hfcourse.data import apply_template, load_dataset

    pool = load_dataset(args.shots_dataset_name, args.shots_split, num_examples=args.num_shots_pool)
    pool = apply_template(pool, script_args.template, inverted=False) if script_args.template else pool
    if "completion" not in pool.column_names:
        raise InputError(f"shots_dataset_name: '{args.shots_dataset_name}' has no answers; give one with an output")
    return list(pool)
