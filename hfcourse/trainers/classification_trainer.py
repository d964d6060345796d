"""Classification: an encoder (or a decoder) with a head of one score a class."""

import copy
from dataclasses import dataclass, field

from datasets import Dataset, IterableDataset
from transformers import DataCollatorWithPadding

from hfcourse.errors import InputError
from hfcourse.trainers.checks import ROWS_READ, check_columns, check_padding
from hfcourse.trainers.language_model_trainer import LanguageModelConfig, LanguageModelTrainer


@dataclass
class ClassificationConfig(LanguageModelConfig):
    """[`LanguageModelConfig`] and the length of an input."""

    input_length: int = field(default=512, metadata={"help": "Tokens of an input; longer ones are cut."})


class ClassificationTrainer(LanguageModelTrainer):
    """[`LanguageModelTrainer`] whose label is a class.

        L = -(1/n) Σ_i log p(c_i | x_i)     n: rows of the whole optimizer step, over all its processes

    The model's own loss would be multiplied by the accumulation steps. Texts are padded on the right, whatever the
    tokenizer does: BERT's positions count from the left. `compute_metrics` gets the classes' scores (N, C) and the
    labels (N,).

    Args:
        model: for sequence classification, with as many scores as classes.
        train_dataset, eval_dataset: a column of texts (`text_column`), perhaps `text_pair`, and `label`, a number from
            0 on; or rows that are tokenised, with `labels`.
        processing_class: tokenizer.
    """

    _tag_names = ["text-classification"]
    _name = "Classification"
    _paper = {"title": "BERT: Pre-training of Deep Bidirectional Transformers", "id": "1810.04805"}

    def __init__(self, model, args=None, *, train_dataset=None, eval_dataset=None, processing_class=None, **kwargs):
        args = args or ClassificationConfig("Classification")
        check_padding(processing_class)
        if processing_class.pad_token is None:
            processing_class.pad_token = processing_class.eos_token
        model.config.pad_token_id = processing_class.pad_token_id  # a decoder's head reads the last token before it
        named = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        for name, dataset in named.items():
            if dataset is not None or name == "train_dataset":
                named[name] = _tokenized(dataset, name, processing_class, args, model.config.num_labels)
        pads_right = copy.copy(processing_class)
        pads_right.padding_side = "right"
        collator = kwargs.pop("data_collator", None) or DataCollatorWithPadding(pads_right)
        super().__init__(model, args, data_collator=collator, processing_class=processing_class, **named, **kwargs)

    def logits_and_labels(self, model, inputs):
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        return outputs, outputs.logits.unsqueeze(1), labels.unsqueeze(1)  # a text of one token, its class

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.pop(f"{metric_key_prefix}_perplexity", None)  # of classes nobody asks it
        return output


def _tokenized(dataset, name: str, tokenizer, args, num_labels: int) -> Dataset | IterableDataset:
    check_columns(dataset, name)
    first = next(iter(dataset))
    if "input_ids" in first:
        return dataset
    check_columns(dataset, name, args.text_column, "label")
    for i, row in zip(range(ROWS_READ), dataset, strict=False):
        if not isinstance(row["label"], int) or not 0 <= row["label"] < num_labels:
            raise InputError(
                f"{name}: row {i}: label {row['label']!r} is none of the model's classes 0 to {num_labels - 1}"
            )
    given = {"tokenizer": tokenizer, "text_column": args.text_column, "input_length": args.input_length}
    return dataset.map(_tokenize, fn_kwargs=given, remove_columns=list(first))


def _tokenize(row: dict, tokenizer, text_column: str, input_length: int) -> dict:
    tokens = tokenizer(row[text_column], row.get("text_pair"), truncation=True, max_length=input_length)
    return {**tokens, "labels": row["label"]}
