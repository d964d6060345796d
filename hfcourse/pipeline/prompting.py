"""Prompting measured: the answers of a model that nobody trains, against the dataset's, with what they cost."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hfcourse.errors import InputError
from hfcourse.pipeline.files import write_jsonl
from hfcourse.pipeline.launch import ScriptArguments, load_tokenizer
from hfcourse.pipeline.load_model import load_generator
from hfcourse.pipeline.measure import MeasureArguments, place, shots_pool

if TYPE_CHECKING:
    from trl import ModelConfig


@dataclass
class PromptArguments(MeasureArguments):
    """How the model is asked, and how its answers are read."""

    num_shots: int = field(default=4, metadata={"help": "Examples with answers before each prompt."})
    shots_strategy: str = field(
        default="random", metadata={"help": "random, similar (to the question, by its words), or balanced (answers)."}
    )
    instruction: str | None = field(
        default=None, metadata={"help": "Stands before everything; in a chat it is the system's message."}
    )
    apply_chat_template: bool = field(
        default=False, metadata={"help": "Ask in the tokenizer's chat template, examples as earlier turns."}
    )
    extract: str | None = field(
        default=None,
        metadata={
            "help": "What of an answer is compared with the dataset's: number, letter, line, or a regular expression. "
            "Needed by --instruction, --apply_chat_template, --num_samples and other strategies than random."
        },
    )
    num_samples: int = field(
        default=1, metadata={"help": "Answers to each prompt; the most frequent counts. Needs --temperature above 0."}
    )

    # evaluation.json has these too
    also_written = ("shots_strategy", "instruction", "apply_chat_template", "extract", "num_samples")

    def __post_init__(self):
        super().__post_init__()
        scored = self.instruction or self.apply_chat_template or self.num_samples > 1
        if self.extract is None and (scored or self.shots_strategy != "random"):
            raise InputError("extract: say what of an answer counts (number, letter, line, or a regular expression)")
        if self.num_samples > 1 and self.temperature == 0:
            raise InputError("temperature: must exceed 0 with num_samples, or all samples are one")


def measure_prompting(
    rows: list[dict], script_args: ScriptArguments, args: PromptArguments, model_args: "ModelConfig"
) -> dict:
    """Ask each row's prompt and compare; write answers.jsonl and samples.jsonl; return the figures.

    Returns:
        `accuracy` of one sample and `accuracy_se`, `answered` (share of answers in which --extract finds something),
        `accuracy_by_k` [{"k", "accuracy", "se"}], and the cost: `prompt_tokens`, `completion_tokens`, `seconds`.
    """
    from hfcourse.evaluation.answering import answer_all
    from hfcourse.evaluation.prompting import SEPARATOR, accuracy_by_k, extractor, few_shot_chats, few_shot_prompts
    from hfcourse.evaluation.statistics import estimate

    extract = extractor(args.extract)
    references = _references(rows, extract)
    pool = shots_pool(script_args, args) if args.num_shots else []
    form = few_shot_chats if args.apply_chat_template else few_shot_prompts
    prompts = [row["prompt"] for row in rows]
    shown = form(prompts, pool, args.num_shots, args.seed, args.shots_strategy, args.instruction)
    tokenizer = load_tokenizer(model_args.model_name_or_path)
    if args.apply_chat_template and tokenizer.chat_template is None:
        raise InputError("apply_chat_template: the tokenizer has no chat template")
    stop = args.stop_string or (SEPARATOR if args.num_shots and not args.apply_chat_template else None)
    answers, cost = answer_all(
        place(load_generator(model_args)),
        tokenizer,
        shown,
        Path(args.output_dir) / "answers.jsonl",
        args.num_samples,
        args.max_completion_length,
        args.temperature,
        args.per_device_eval_batch_size,
        args.seed,
        stop,
    )
    said = [[extract(completion.text) for completion in samples] for samples in answers]
    by_k = accuracy_by_k(said, references)
    write_jsonl(Path(args.output_dir) / "samples.jsonl", _records(rows, answers, said, references, by_k))
    (accuracy, se), every = estimate(by_k[1]), [text for texts in said for text in texts]
    return {
        "num_prompts": len(rows),
        "accuracy": accuracy,
        "accuracy_se": se,
        "answered": sum(map(bool, every)) / len(every),
        "accuracy_by_k": [
            {"k": k, **dict(zip(("accuracy", "se"), estimate(v), strict=True))} for k, v in by_k.items()
        ],
        **cost._asdict(),
    }


def _references(rows: list[dict], extract) -> list[str]:
    references = []
    for i, row in enumerate(rows):
        if "completion" not in row:
            raise InputError(f"dataset_name: has no answers to compare with, only {sorted(row)}; leave --extract out")
        references.append(extract(row["completion"]))
        if not references[-1]:
            raise InputError(f"dataset_name: row {i}: --extract finds nothing in the answer; is it the right kind?")
    return references


def _records(rows, answers, said, references, by_k) -> list[dict]:
    return [
        {
            "prompt": row["prompt"],
            "reference": reference,
            "said": texts,
            "right": by_k[1][i],
            "completions": [completion.text for completion in samples],
        }
        for i, (row, samples, texts, reference) in enumerate(zip(rows, answers, said, references, strict=True))
    ]
