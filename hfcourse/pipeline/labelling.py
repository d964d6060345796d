"""Labelling, as the recipe runs it: answers, who judges them, a journal, and files in TRL's preference format."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from hfcourse.annotation.journal import Annotator, Journal, label
from hfcourse.data.preferences import Answer, Comparison, compare_all, preference_row
from hfcourse.errors import InputError
from hfcourse.pipeline.files import read_jsonl, write_json, write_jsonl
from hfcourse.pipeline.launch import load_tokenizer
from hfcourse.pipeline.measure import place

# Where answers and verdicts are kept: hidden, for `datasets` takes every file of a folder for its data.
WORK = ".labels"
ANNOTATORS = ("world", "judge", "likelihood", "reward_model", "ratings", "terminal")


@dataclass
class LabelArguments:
    _argument_group_name = "answers and annotators"

    output_dir: str = field(default="preferences", metadata={"help": "Folder of the pairs."})
    answer_models: list[str] | None = field(
        default=None, metadata={"help": "Models that answer; model_name_or_path alone, when not given."}
    )
    num_generations: int = field(default=2, metadata={"help": "Answers of each model to a prompt; all are compared."})
    temperature: float = field(default=1.0, metadata={"help": "Of the sampling."})
    max_completion_length: int = field(default=64, metadata={"help": "Tokens an answer may have."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Prompts answered or judged at once."})
    annotator: str = field(default="world", metadata={"help": "Who judges.", "choices": list(ANNOTATORS)})
    annotator_name: str | None = field(default=None, metadata={"help": "Its name in the rows; yours at the terminal."})
    judge_model: str | None = field(default=None, metadata={"help": "Of judge, likelihood and reward_model."})
    judge_verdict: str = field(
        default="logprob", metadata={"help": "Of a letter's probability, or of text.", "choices": ["logprob", "text"]}
    )
    constitution: str | None = field(default=None, metadata={"help": "File with what the judge is to look for."})
    aspects: bool = field(
        default=False, metadata={"help": "Rate each answer by aspect too, into OUTPUT_DIR_ultrafeedback."}
    )
    tie_below: float = field(default=0.0, metadata={"help": "Differences (of P from ½, of scores) that are a tie."})
    rating_column: str = field(default="overall_score", metadata={"help": "Of annotator ratings."})
    num_annotators: int = field(default=8, metadata={"help": "World: people in the pool."})
    labels_per_pair: int = field(default=1, metadata={"help": "World: people who judge each pair."})
    position_bias: float = field(default=0.0, metadata={"help": "World: share of judgements for the first, unread."})
    seed: int = field(default=0, metadata={"help": "Of the sampling, the people and which answer is shown first."})


def sample_answers(args: LabelArguments, models: dict[str, tuple], rows: list[dict], seed: int, path: Path):
    """k answers of each model to each prompt, kept in a file; ones that were cut at the limit are left empty.

    Returns:
        answers of each row, and the tokens that were read and written.
    """
    # By its module, so that what stands in for it in a test is seen.
    from hfcourse import evaluation

    if not path.is_file():
        prompts = [row["prompt"] for row in rows for _ in range(args.num_generations)]
        by_row, num_tokens = [[] for _ in rows], 0
        for number, (name, (model, tokenizer)) in enumerate(models.items()):
            written = evaluation.generate(
                model, tokenizer, prompts, args.max_completion_length, args.temperature,
                args.per_device_eval_batch_size, seed + 1000 * number,
            )  # fmt: skip
            num_tokens += sum(len(w.prompt_ids) + len(w.ids) for w in written)
            for i, w in enumerate(written):
                by_row[i // args.num_generations].append(Answer(w.text if w.finished else "", name))
        write_jsonl(path, [{"answers": answers, "num_tokens": num_tokens} for answers in by_row])
    kept = read_jsonl(path)
    return [[Answer(*answer) for answer in row["answers"]] for row in kept], kept[0]["num_tokens"]


def annotator_of(args: LabelArguments, dtype: str | None) -> Annotator:
    """The annotator that the arguments name.

    Raises:
        InputError: it needs a model or a file that is not given.
    """
    name = args.annotator_name or args.judge_model or args.annotator
    if args.annotator == "world":
        from hfcourse.annotation.people import WorldPeople
        from hfcourse.world import Annotators

        pool = Annotators(args.num_annotators, args.seed)
        return WorldPeople(pool, args.labels_per_pair, args.position_bias, args.tie_below)
    if args.annotator == "terminal":
        from hfcourse.annotation.terminal import TerminalAnnotator

        return TerminalAnnotator(args.annotator_name or os.environ.get("USER", "a person"))
    if args.judge_model is None:
        raise InputError(f"judge_model: is required for annotator={args.annotator}")
    tokenizer = load_tokenizer(args.judge_model)
    if args.annotator == "reward_model":
        from hfcourse.annotation.scorers import reward_model_annotator
        from hfcourse.models.reward_model import load_reward_model

        return reward_model_annotator(
            place(load_reward_model(args.judge_model, dtype)), tokenizer, name, args.tie_below
        )
    model = judge_model(args, dtype)
    if args.annotator == "likelihood":
        from hfcourse.annotation.scorers import likelihood_annotator

        return likelihood_annotator(model, tokenizer, name, args.tie_below)
    from hfcourse.annotation.judge import LLMJudge

    text = read_constitution(args.constitution)
    size = args.per_device_eval_batch_size
    return LLMJudge(model, tokenizer, name, args.judge_verdict, text, args.tie_below, batch_size=size)


def judge_model(args: LabelArguments, dtype: str | None):
    """The causal LM that `judge_model` names."""
    from trl import ModelConfig

    from hfcourse.pipeline.launch import load_causal_lm

    return place(load_causal_lm(ModelConfig(model_name_or_path=args.judge_model, dtype=dtype)))


def read_constitution(path: str | None) -> str | None:
    """Text of a file; raises InputError where there is none."""
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as e:
        raise InputError(f"constitution: cannot read '{path}': {e.strerror}") from e


def label_split(
    args: LabelArguments, annotator: Annotator, rows: list[dict], answers: list[list[Answer]], split: str
) -> dict | None:
    """Judge every two answers, write `split`.parquet, and describe the labels; None where the annotator stopped.

    Raises:
        InputError: nothing to compare, or no pair that was decided.
    """
    from datasets import Dataset

    from hfcourse.annotation.report import describe, gold_scores

    comparisons = compare_all(rows, answers, args.seed)
    if not comparisons:
        raise InputError(f"{split}: no two finished answers to a prompt differ; raise temperature or the limit")
    journal = Journal(Path(args.output_dir) / WORK / f"verdicts_{split}.jsonl")
    size = 1 if args.annotator == "terminal" else args.per_device_eval_batch_size
    finished = label(comparisons, annotator, journal, size)
    pairs = [_with_gold(row, c, gold_scores(c)) for c, row in _decided(comparisons, journal, args.seed)]
    if finished and not pairs:
        raise InputError(f"{split}: all pairs are ties or skipped; lower tie_below, or ask another annotator")
    if pairs:
        path = Path(args.output_dir) / f"{split}.parquet"
        Dataset.from_list(pairs).to_parquet(f"{path}.partial")
        os.replace(f"{path}.partial", path)
    report = describe(comparisons, journal.verdicts)
    possible = sum(len(of_row) * (len(of_row) - 1) // 2 for of_row in answers)
    return {**report, "num_left_out": possible - report["num_pairs"]} if finished else None


def _decided(comparisons: list[Comparison], journal: Journal, seed: int) -> list[tuple[Comparison, dict]]:
    judged = [c for c in comparisons if c.id in journal.verdicts]
    rows = [(c, preference_row(c, journal.verdicts[c.id], seed)) for c in judged]
    return [(c, row) for c, row in rows if row is not None]


def _with_gold(row: dict, comparison: Comparison, gold: tuple[float, float] | None) -> dict:
    if gold is None:
        return row
    by_text = {comparison.a.text: gold[0], comparison.b.text: gold[1]}
    texts = [row[side] if isinstance(row[side], str) else row[side][0]["content"] for side in ("chosen", "rejected")]
    return {**row, "gold_chosen": by_text[texts[0]], "gold_rejected": by_text[texts[1]]}


def rate_aspects(args: LabelArguments, dtype: str | None, rows: list[dict], answers: list[list[Answer]], split: str):
    """Every answer rated by aspect, in UltraFeedback's shape: `output_dir`_ultrafeedback/`split`.jsonl."""
    from hfcourse.annotation.aspects import AspectRater

    if args.judge_model is None:
        raise InputError("judge_model: is required for aspects")
    path = Path(f"{args.output_dir.rstrip('/')}_ultrafeedback", f"{split}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.read_text(encoding="utf-8") if path.is_file() else ""
    path.write_text(kept[: kept.rfind("\n") + 1], encoding="utf-8")  # a line that a kill left half is done again
    done = kept.count("\n")
    rater = AspectRater(judge_model(args, dtype), load_tokenizer(args.judge_model), args.judge_verdict)
    with path.open("a", encoding="utf-8") as file:
        for row, of_row in list(zip(rows, answers, strict=True))[done:]:
            file.write(json.dumps(rater(row, of_row), ensure_ascii=False) + "\n")
            file.flush()


def finish(report_file: Path, report: dict, split: str, described: dict) -> None:
    """Note a finished split; last, so that what it tells of is there."""
    report[split] = described
    write_json(report_file, report)
    print(f"{split}: {described}")
