"""Causal language modeling: pretraining, or going on with it, on packed blocks of text."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from hfcourse.data.packing import pack_documents
from hfcourse.data.token_bytes import token_bytes
from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX
from hfcourse.trainers.checks import num_positions
from hfcourse.trainers.language_model_trainer import (
    LanguageModelConfig,
    LanguageModelTrainer,
    collate_blocks,
    prepared,
)


@dataclass
class CausalLMConfig(LanguageModelConfig):
    """[`LanguageModelConfig`] and the length of a block."""

    block_size: int = field(
        default=1024,
        metadata={"help": "Tokens a block: what the model sees at once. Documents are packed end to end into blocks."},
    )
    isolate_documents: bool = field(
        default=False,
        metadata={"help": "A packed document sees itself alone; else attention reaches back into the one before it."},
    )


class CausalLMTrainer(LanguageModelTrainer):
    """[`LanguageModelTrainer`] for models that read from left to right.

        L = -(1/n) Σ_t log p(x_t | x_<t)     n: predicted tokens of the whole optimizer step, over all processes

    Datasets of texts are packed into `block_size` tokens, doc₁ EOS doc₂ EOS …; those with `input_ids` are taken as
    they are. EOS is learnt like any token, also where it is the pad token: blocks have no padding. Where the rows have
    `position_ids` that start anew with each document (`isolate_documents` makes them), documents do not see each
    other, and the first token of each is not learnt: nothing foretells it. `eval_bits_per_byte` compares models across
    tokenizers, where the vocabulary tells how many bytes a token has ([`hfcourse.data.token_bytes`]).

    Args:
        train_dataset, eval_dataset: with a column of texts, or with `input_ids` of one length (and `labels`, if some
            tokens are not to be learnt: -100).
        processing_class: tokenizer, saved with the model; its EOS parts the documents.
        peft_config: trains an adapter instead of the model.
    """

    _tag_names = ["causal-lm"]
    _name = "Causal language modeling"

    def __init__(
        self,
        model,
        args=None,
        *,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        data_collator=collate_blocks,
        **kwargs,
    ):
        args = args or CausalLMConfig("CausalLM")
        if train_dataset is None:
            raise InputError("train_dataset: is required")

        def pack(dataset):
            if processing_class is None:
                raise InputError("processing_class: a tokenizer is needed to pack texts")
            positions = None if args.isolate_documents else num_positions(model.config)  # isolated, they begin anew
            if args.text_column in next(iter(dataset)) and positions is not None and args.block_size > positions:
                raise InputError(f"block_size={args.block_size}: exceeds the model's {positions} positions; lower it")
            return pack_documents(dataset, processing_class, args.block_size, args.text_column, args.isolate_documents)

        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=prepared(train_dataset, "train_dataset", pack),
            eval_dataset=prepared(eval_dataset, "eval_dataset", pack),
            processing_class=processing_class,
            **kwargs,
        )
        self._loss_shifts_labels = True
        counts = None if processing_class is None else token_bytes(processing_class)
        self._token_bytes = None if counts is None else torch.from_numpy(counts)

    def logits_and_labels(self, model, inputs):
        inputs = dict(inputs)
        next_labels = F.pad(inputs.pop("labels")[:, 1:], (0, 1), value=IGNORE_INDEX)
        inputs = self._isolated(inputs, causal=True)
        return self._counted_logits(model, {**inputs, "use_cache": False}, next_labels)

    def _measures(self, labels: Tensor) -> tuple[Tensor, ...]:
        if self._token_bytes is None:
            return ()
        counts = self._token_bytes.to(labels.device)
        return (counts[labels.clamp(min=0)].where(labels != IGNORE_INDEX, 0).sum(1),)

    def _metrics_of(self, total_loss: float, sums: list[float]) -> dict[str, float]:
        return {"bits_per_byte": total_loss / math.log(2) / max(sums[0], 1)} if sums else {}
