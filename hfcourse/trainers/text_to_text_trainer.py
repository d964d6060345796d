"""Text to text: every task is a text to read and a text to write, for encoder-decoders and decoders alike."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX
from hfcourse.models.decoder_inputs import decoder_inputs, require_start_token
from hfcourse.trainers.checks import check_columns, check_row_lengths
from hfcourse.trainers.classification_trainer import ClassificationConfig
from hfcourse.trainers.language_model_trainer import LanguageModelTrainer

SIDES = (("prompt", "completion"), ("input", "target"))


@dataclass
class TextToTextConfig(ClassificationConfig):
    """[`ClassificationConfig`] and the length of a target."""

    target_length: int = field(default=128, metadata={"help": "Tokens of a target with its EOS; longer ones are cut."})


class TextToTextTrainer(LanguageModelTrainer):
    """[`LanguageModelTrainer`] on pairs of texts, T5's way (the course's 1.5.2).

        L = -(1/n) Σ_t log p(y_t | y_<t, x)     n: target tokens of the whole optimizer step, over all its processes

    1. An encoder-decoder reads x EOS and writes y EOS; white space around a target is left out.
    2. A decoder reads x y EOS, of which y EOS is learnt. The two are tokenised apart, so that it is asked with what it
       read in training. An x that is too long loses its beginning; an encoder's, its end, as in T5.

    Args:
        train_dataset, eval_dataset: columns `prompt` and `completion`, or `input` and `target`; or rows of `input_ids`
            and `labels`.
        processing_class: tokenizer, with EOS.
    """

    _tag_names = ["text-to-text"]
    _name = "Text-to-text finetuning"
    _paper = {"title": "Exploring the Limits of Transfer Learning with T5", "id": "1910.10683"}

    def __init__(self, model, args=None, *, train_dataset=None, eval_dataset=None, processing_class=None, **kwargs):
        args = args or TextToTextConfig("TextToText")
        if processing_class is None or processing_class.eos_token_id is None:
            raise InputError("eos_token: the tokenizer has none, so the model cannot learn to stop; set one")
        is_seq2seq = model.config.is_encoder_decoder
        if is_seq2seq:
            require_start_token(model)
        named = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        for name, dataset in named.items():
            if dataset is not None or name == "train_dataset":
                named[name] = _tokenized(dataset, name, processing_class, args, is_seq2seq)
        if not is_seq2seq:
            check_row_lengths(model.config, None, **{n: d for n, d in named.items() if d is not None})
        collator = kwargs.pop("data_collator", None) or _Pad(processing_class)
        super().__init__(model, args, data_collator=collator, processing_class=processing_class, **named, **kwargs)

    def logits_and_labels(self, model, inputs) -> tuple[object, Tensor, Tensor]:
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        plain = self.accelerator.unwrap_model(model)
        if plain.config.is_encoder_decoder:
            outputs = model(**inputs, decoder_input_ids=decoder_inputs(plain, labels), use_cache=False)
            return outputs, outputs.logits, labels
        next_labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        return self._counted_logits(model, {**inputs, "use_cache": False}, next_labels)


class _Pad:
    """Rows of unlike length as one batch, padded on the right, labels with -100."""

    def __init__(self, tokenizer):
        self.pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, Tensor]:
        ids, labels = ([torch.tensor(row[name], dtype=torch.long) for row in rows] for name in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
        }


def _tokenized(dataset, name: str, tokenizer, args: TextToTextConfig, is_seq2seq: bool) -> Dataset | IterableDataset:
    check_columns(dataset, name)
    first = next(iter(dataset))
    if "input_ids" in first:
        check_columns(dataset, name, "labels")
        return dataset
    sides = next((sides for sides in SIDES if set(sides) <= first.keys()), None)
    if sides is None:
        raise InputError(
            f"{name}: has neither 'prompt' and 'completion' nor 'input' and 'target', only {sorted(first)}; "
            "rename columns, or give a --template"
        )
    lengths = {"input_length": args.input_length, "target_length": args.target_length}
    given = {"tokenizer": tokenizer, "sides": sides, "is_seq2seq": is_seq2seq, **lengths}
    return dataset.map(_tokenize, fn_kwargs=given, remove_columns=list(first))


def _tokenize(row: dict, tokenizer, sides, is_seq2seq: bool, input_length: int, target_length: int) -> dict:
    eos, (read, written) = tokenizer.eos_token_id, (row[side] for side in sides)
    target = tokenizer(written.strip() if is_seq2seq else written, add_special_tokens=False)["input_ids"]
    target = [*target[: target_length - 1], eos]
    if is_seq2seq:
        ids = tokenizer(read, add_special_tokens=False)["input_ids"]
        return {"input_ids": [*ids[: input_length - 1], eos], "labels": target}
    ids = tokenizer(read)["input_ids"]
    ids = ids[:-1] if ids and ids[-1] == eos else ids  # some tokenizers end every text, a prompt too
    ids = ids[-input_length:]
    return {"input_ids": [*ids, *target], "labels": [IGNORE_INDEX] * len(ids) + target}
