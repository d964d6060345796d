"""What `finetune` needs beside its trainers: classes with names, and answers generated at each evaluation."""

from typing import TYPE_CHECKING

from hfcourse.errors import InputError
from hfcourse.pipeline.launch import _check_source, _first_line

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedModel, Trainer
    from trl import ModelConfig

MAX_CLASSES = 1000


def class_names(splits: tuple) -> list[str]:
    """Names of the classes of a column `label`: the dataset's own, or its values in order.

    Raises:
        InputError: labels that are neither whole numbers from 0 nor names, a test label never trained on, or a stream,
            whose labels nobody knows beforehand.
    """
    train, *others = splits
    feature = (train.features or {}).get("label")
    if hasattr(feature, "names"):
        return feature.names
    if not hasattr(train, "unique"):
        raise InputError("label: of a stream the classes are not known beforehand; leave --dataset_streaming out")
    labels = sorted(train.unique("label"))
    if len(labels) > MAX_CLASSES or not all(isinstance(label, str) for label in labels):
        if not all(isinstance(label, int) for label in labels) or labels[0] < 0 or labels[-1] >= MAX_CLASSES:
            raise InputError("label: must be names, or whole numbers from 0; is this a column of classes?")
        labels = list(range(labels[-1] + 1))
    for dataset in others:
        unknown = set(dataset.unique("label") if dataset is not None else ()) - {*labels}
        if unknown:
            raise InputError(f"label: {sorted(unknown)[0]!r} is in the test split, and never in the train split")
    return [str(label) for label in labels]


def numbered(dataset: "Dataset | IterableDataset", names: list[str]) -> "Dataset | IterableDataset":
    """The same rows, their `label` a number."""
    if isinstance(next(iter(dataset))["label"], int):
        return dataset
    number = {name: i for i, name in enumerate(names)}
    return dataset.map(_number, fn_kwargs={"number": number})


def _number(row: dict, number: dict[str, int]) -> dict:
    return {"label": number[row["label"]]}


def load_classifier(model_args: "ModelConfig", names: list[str]) -> "PreTrainedModel":
    """`--model_name_or_path` with a head of these classes. Raises InputError where there is no such model."""
    from transformers import AutoModelForSequenceClassification

    name = model_args.model_name_or_path
    _check_source(name)
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            name,
            revision=model_args.model_revision,
            dtype=model_args.dtype,
            attn_implementation=model_args.attn_implementation,
            id2label=dict(enumerate(names)),
            label2id={label: i for i, label in enumerate(names)},
        )
    except (OSError, ValueError) as e:
        raise InputError(f"'{name}' is nothing that a head of classes goes on: {_first_line(e)}") from e


def add_text_metrics(trainer: "Trainer", rows: "Dataset", max_completion_length: int) -> None:
    """At each evaluation, greedy answers to the rows' prompts, measured against their targets, by `task` too."""
    from hfcourse.callbacks import EvaluateCallback
    from hfcourse.evaluation import generate
    from hfcourse.metrics import text_metrics

    first = next(iter(rows))
    if "input_ids" in first:
        raise InputError("eval_dataset: rows of token ids have no texts to compare answers with")
    read, written = ("prompt", "completion") if "prompt" in first else ("input", "target")
    prompts, references = ([row[side] for row in rows] for side in (read, written))
    tasks = [row.get("task") for row in rows]
    size = trainer.args.per_device_eval_batch_size

    def measure(model, tokenizer) -> dict[str, float]:
        answers = generate(model, tokenizer, prompts, max_completion_length, temperature=0, batch_size=size)
        pairs = [(answer.text.strip(), wanted.strip()) for answer, wanted in zip(answers, references, strict=True)]
        metrics = text_metrics(*map(list, zip(*pairs, strict=True)))
        for task in sorted({task for task in tasks if task is not None}):
            of_task = [pair for pair, name in zip(pairs, tasks, strict=True) if name == task]
            if len(of_task) > 1:
                metrics[f"{task}/exact_match"] = text_metrics(*map(list, zip(*of_task, strict=True)))["exact_match"]
        return metrics

    trainer.add_callback(EvaluateCallback(trainer, measure))
