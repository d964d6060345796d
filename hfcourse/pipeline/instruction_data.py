"""Training data of instructions: one dataset or a mixture of many, each in its template, as texts or as chats."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import ScriptArguments, load_splits

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase, TrainingArguments

KEYS = ("path", "name", "data_dir", "data_files", "split", "columns", "fraction")  # trl.DatasetMixtureConfig's
OWN_KEYS = ("num_examples", "template", "test_split")
FORMS = (("messages",), ("prompt", "completion"))


@dataclass
class MixtureArguments:
    """TRL's `datasets:` in a YAML file, and how large each one's share is."""

    _argument_group_name = "mixture of datasets"

    datasets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "In YAML a list of mappings, on the command line a JSON object each, in place of --dataset_name. "
            "TRL's keys: path, name, data_dir, data_files, split, columns, fraction; and num_examples, template, "
            "test_split."
        },
    )
    mixture_cap: int | None = field(
        default=None, metadata={"help": "K of rate = min(n, K)^(1/T). Unset: no dataset counts as smaller than it is."}
    )
    mixture_temperature: float = field(
        default=1.0, metadata={"help": "T of rate = min(n, K)^(1/T): 1 mixes by size, larger values more evenly."}
    )
    mixture_size: int | None = field(
        default=None,
        metadata={"help": "Rows of the mixture. Unset: Σ min(n, K), or with fractions as many as repeat no row."},
    )

    def __post_init__(self):
        self.datasets = [_parsed(entry) for entry in self.datasets]


def load_instructions(
    script_args: ScriptArguments,
    mixture: MixtureArguments,
    training_args: "TrainingArguments",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    keep_task: bool = False,
) -> tuple["Dataset | IterableDataset", "Dataset | IterableDataset | None"]:
    """(train, eval) with `prompt` and `completion`, or `messages`; eval is None where `eval_strategy` is "no".

    With a chat template of the course in `chat_template_path`, the tokenizer gets it, templates make chats, and only
    what the assistant says is learnt. Prints each dataset's share of a mixture.

    Args:
        keep_task: keep the column `task` too, where there is one.

    Raises:
        InputError: no data, unknown keys, datasets of different forms, or a mixture without sizes.
    """
    as_messages = _takes_chat_template(training_args, tokenizer)
    if not mixture.datasets:
        splits = load_splits(script_args, training_args)
        return tuple(
            split and _in_form(split, script_args.template, as_messages, training_args.seed, keep_task)
            for split in splits
        )
    if script_args.dataset_name is not None:
        raise InputError("datasets: a mixture is in place of dataset_name; leave one of them out")
    streaming = script_args.dataset_streaming
    if streaming and training_args.max_steps <= 0:
        raise InputError("max_steps: is required with dataset_streaming, for a stream has no length")

    def load(entry: dict, split: str, num_examples: int | None, streaming: bool):
        rows = _load(entry, split, num_examples, streaming)
        template = entry.get("template", script_args.template)
        return _in_form(rows, template, as_messages, training_args.seed, keep_task)

    loaded = [load(e, e.get("split", "train"), e.get("num_examples"), streaming) for e in mixture.datasets]
    _check_forms(mixture.datasets, loaded)
    train = _mixed(mixture, loaded, training_args, streaming)
    if training_args.eval_strategy == "no":
        return train, None
    from datasets import concatenate_datasets

    count = script_args.num_eval_examples
    return train, concatenate_datasets([load(e, e.get("test_split", "test"), count, False) for e in mixture.datasets])


def _takes_chat_template(training_args, tokenizer) -> bool:
    from hfcourse.data import chat_templates, set_chat_template

    name = getattr(training_args, "chat_template_path", None)
    if name is None or tokenizer is None or (name not in chat_templates() and not name.endswith(".jinja")):
        return False
    set_chat_template(tokenizer, name)
    training_args.chat_template_path = None  # the tokenizer has it
    training_args.assistant_only_loss = True
    return True


def _in_form(dataset, template: str | None, as_messages: bool, seed: int, keep_task: bool):
    from hfcourse.data import apply_template

    if template is None:
        return dataset
    dataset = apply_template(dataset, template, seed=seed, as_messages=as_messages)
    columns = next(iter(dataset)).keys()
    form = next((form for form in FORMS if set(form) <= columns), ())
    kept = [*form, "task"] if keep_task and "task" in columns else [*form]
    return dataset.select_columns(kept) if form else dataset


def _load(entry: dict, split: str, num_examples: int | None, streaming: bool):
    import datasets

    from hfcourse.data import load_dataset

    if entry.get("data_dir") or entry.get("data_files"):
        try:
            options = {name: entry[name] for name in ("name", "data_dir", "data_files") if entry.get(name)}
            rows = datasets.load_dataset(entry["path"], split=split, streaming=streaming, **options)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
            raise InputError(f"datasets: cannot load '{entry['path']}': {' '.join(str(e).split())}") from e
        if num_examples is not None:
            rows = rows.take(num_examples if streaming else min(num_examples, len(rows)))
    else:
        rows = load_dataset(entry["path"], split, entry.get("name"), streaming, num_examples)
    if entry.get("columns"):
        missing = set(entry["columns"]) - next(iter(rows)).keys()
        if missing:
            raise InputError(f"datasets: '{entry['path']}' has no column '{sorted(missing)[0]}'")
        rows = rows.select_columns(entry["columns"])
    return rows


def _mixed(mixture: MixtureArguments, loaded: list, training_args, streaming: bool):
    from hfcourse.data.mixtures import mix, mix_streams, mixing_rates, realised_counts

    sizes = [
        entry.get("num_examples") if streaming else len(d) for entry, d in zip(mixture.datasets, loaded, strict=True)
    ]
    fractions = [entry.get("fraction") for entry in mixture.datasets]
    if any(fraction is not None for fraction in fractions):
        if None in fractions or min(fractions) <= 0:
            raise InputError("datasets: 'fraction' must be set, and positive, for all datasets or for none")
        rates, total = [fraction / sum(fractions) for fraction in fractions], None
    elif None in sizes:
        raise InputError("datasets: a stream has no size; give each 'num_examples' (n of its rate), or 'fraction'")
    else:
        cap = mixture.mixture_cap
        rates, total = mixing_rates(sizes, cap, mixture.mixture_temperature), sum(min(n, cap or n) for n in sizes)
    if streaming:
        rows = mixture.mixture_size or training_args.max_steps * _rows_a_step(training_args)
        dataset, counts = (
            mix_streams(loaded, rates, training_args.seed),
            realised_counts(rates, rows, training_args.seed),
        )
    else:
        dataset, counts = mix(loaded, rates, mixture.mixture_size or total, training_args.seed)
    if training_args.process_index == 0:
        for entry, size, rate, count in zip(mixture.datasets, sizes, rates, counts, strict=True):
            share = f"{count} of {sum(counts)} rows, {100 * count / sum(counts):.1f} % (asked: {100 * rate:.1f} %)"
            print(f"mixture: {entry['path']}: {share}, drawn from {size if size is not None else 'a stream'}")
    return dataset


def _rows_a_step(args) -> int:
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def _check_forms(entries: list[dict], loaded: list) -> None:
    forms = [tuple(sorted(next(iter(dataset)))) for dataset in loaded]
    for entry, form in zip(entries, forms, strict=True):
        if form != forms[0]:
            raise InputError(
                f"datasets: '{entries[0]['path']}' has the columns {list(forms[0])}, '{entry['path']}' {list(form)}; "
                "give each a 'template' or 'columns' that makes them alike"
            )


def _parsed(entry: str | dict) -> dict:
    try:
        parsed = json.loads(entry) if isinstance(entry, str) else entry
    except json.JSONDecodeError as e:
        raise InputError(f"datasets: '{entry}' is not a JSON object such as '{{\"path\": \"rows.jsonl\"}}'") from e
    if not isinstance(parsed, dict) or "path" not in parsed:
        raise InputError(f"datasets: '{entry}' has no 'path'")
    unknown = parsed.keys() - {*KEYS, *OWN_KEYS}
    if unknown:
        raise InputError(f"datasets: unknown key '{sorted(unknown)[0]}'; known are {', '.join((*KEYS, *OWN_KEYS))}")
    return parsed
