"""Masked language modeling: pretraining encoders the ways of BERT, RoBERTa and SpanBERT."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hfcourse.collators import DataCollatorForMaskedLM
from hfcourse.collators.rows import column, matrix
from hfcourse.data.packing import Separators, pack_documents
from hfcourse.data.static_masks import static_masks
from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX
from hfcourse.losses import language_modeling_loss
from hfcourse.models.selected_positions import head_reads_only
from hfcourse.models.span_boundary import (
    SpanBoundaryHead,
    load_span_boundary_head,
    save_span_boundary_head,
    span_boundary_pairs,
)
from hfcourse.trainers.language_model_trainer import LanguageModelConfig, LanguageModelTrainer, prepared


@dataclass
class MaskedLMConfig(LanguageModelConfig):
    """[`LanguageModelConfig`] and what is hidden: see [`hfcourse.collators.DataCollatorForMaskedLM`]."""

    block_size: int = field(
        default=512, metadata={"help": "Tokens a block, CLS and SEP included. Documents are packed end to end."}
    )
    masking: str = field(default="token", metadata={"help": "token, whole_word, or span (SpanBERT)."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that are hidden."})
    exact_count: bool = field(default=False, metadata={"help": "Exactly that share in each row, as BERT has it."})
    dupe_factor: int = field(
        default=0, metadata={"help": "Static masks: so many copies of each row, each with one mask. 0: dynamic masks."}
    )
    span_boundary: bool = field(
        default=False, metadata={"help": "SpanBERT's second objective: tell a span from the tokens beside it."}
    )
    max_span_boundary_length: int = field(default=20, metadata={"help": "Tokens of a span that are told so."})
    isolate_documents: bool = field(default=False, metadata={"help": "Documents of a block do not see each other."})


class MaskedLMTrainer(LanguageModelTrainer):
    """[`LanguageModelTrainer`] for encoders.

        L = -(1/n) Σ_{t hidden} log p(x_t | the rest)   [ - (1/m) Σ_i log p(x_i | x_{s-1}, x_{e+1}, i - s) ]

    1. Masks are functions of (seed, epoch, row): the same whatever the batch size, the processes and interruptions.
    2. `span_boundary` adds the second term, SpanBERT's, over its m pairs of the whole optimizer step. Its head is
       saved beside the model, which stays an ordinary one; `eval_loss` is the first term alone.
    Datasets of texts are packed, CLS … doc₁ SEP doc₂ … SEP, or isolated, CLS doc₁ SEP CLS doc₂ SEP; those with
    `input_ids` are taken as they are, of any lengths, or of one with `position_ids` that begin anew in each document.

    Args:
        train_dataset, eval_dataset: with a column of texts, or `input_ids`.
        processing_class: tokenizer, with mask, CLS and SEP tokens.
        data_collator: in place of the one that the config describes.
    """

    _tag_names = ["masked-lm"]
    _name = "Masked language modeling"
    _paper = {"title": "BERT: Pre-training of Deep Bidirectional Transformers", "id": "1810.04805"}

    def __init__(
        self,
        model,
        args=None,
        *,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        data_collator=None,
        **kwargs,
    ):
        args = args or MaskedLMConfig("MaskedLM")
        if processing_class is None:
            raise InputError("processing_class: a tokenizer is needed to mask")
        if train_dataset is None:
            raise InputError("train_dataset: is required")
        datasets = {}
        for name, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            datasets[name] = prepared(dataset, name, lambda texts: _packed(texts, processing_class, args))
        if args.dupe_factor:
            datasets["train_dataset"] = static_masks(datasets["train_dataset"], args.dupe_factor, args.seed)
        collator = data_collator or DataCollatorForMaskedLM(
            processing_class, args.masking, args.mlm_probability, args.exact_count, seed=args.seed
        )
        if "position_ids" in next(iter(datasets["train_dataset"])):
            collator = _WithPositions(collator)
        self._special_ids = torch.tensor(processing_class.all_special_ids)
        if args.span_boundary:
            model.span_boundary_head = SpanBoundaryHead(model, args.max_span_boundary_length).to(model.device)
        super().__init__(model, args, data_collator=collator, processing_class=processing_class, **datasets, **kwargs)

    def logits_and_labels(self, model, inputs):
        inputs = dict(inputs)
        labels, inputs = inputs.pop("labels"), self._isolated(inputs, causal=False)
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"] + _first_position(self.accelerator.unwrap_model(model))
        if not (self.args.span_boundary and self.model.training):
            return self._counted_logits(model, inputs, labels)
        plain = self.accelerator.unwrap_model(model)
        *places, self._pair_targets = self._pairs(inputs["input_ids"], labels)

        def pair_scores(states: Tensor) -> Tensor:
            return plain.span_boundary_head(states, plain.get_input_embeddings().weight, *places)

        with head_reads_only(plain, labels != IGNORE_INDEX, beside=pair_scores) as selection:
            outputs, self._pair_scores = model(**inputs)
        return outputs, selection.rows(outputs.logits), labels

    def _pairs(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        is_special = torch.isin(input_ids, self._special_ids.to(input_ids.device))
        return span_boundary_pairs(labels, is_special, self.args.max_span_boundary_length)

    def _add_losses(self, loss, outputs, inputs, num_items_in_batch):
        if not self.args.span_boundary or not self.model.training:
            return loss
        num_pairs = None if num_items_in_batch is None else self._num_pairs
        return loss + language_modeling_loss(self._pair_scores, self._pair_targets, num_pairs)

    def _get_num_items_in_batch(self, batch_samples, device):
        if self.args.span_boundary:
            counts = [len(self._pairs(batch["input_ids"], batch["labels"])[-1]) for batch in batch_samples]
            num_pairs = torch.tensor(sum(counts), device=device)
            if self.args.average_tokens_across_devices:
                num_pairs = self.accelerator.gather(num_pairs).sum()
            self._num_pairs = num_pairs.clamp(min=1)
        return super()._get_num_items_in_batch(batch_samples, device)

    def _save(self, output_dir=None, state_dict=None):
        if self.args.span_boundary and self.args.should_save:
            state_dict = self.accelerator.unwrap_model(self.model).state_dict() if state_dict is None else state_dict
            state_dict = save_span_boundary_head(state_dict, output_dir or self.args.output_dir)
        super()._save(output_dir, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.args.span_boundary and not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
            plain = self.model if model is None else model
            load_span_boundary_head(plain.span_boundary_head, resume_from_checkpoint)


class _WithPositions:
    """Hands `position_ids` (B, T) on beside what the collator makes of the rows."""

    def __init__(self, collator):
        self.collator = collator

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.collator, "set_epoch"):
            self.collator.set_epoch(epoch)

    def __call__(self, rows) -> dict[str, Tensor]:
        batch = {name: x for name, x in self.collator(rows).items() if name != "attention_mask"}
        positions = matrix(column(rows, "position_ids"), "position_ids").astype(np.int64)
        return {**batch, "position_ids": torch.from_numpy(positions)}


def _packed(dataset, tokenizer, args: MaskedLMConfig):
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    if cls is None or sep is None:
        raise InputError("cls_token, sep_token: the tokenizer needs both to pack texts; set them")
    if args.isolate_documents:
        separators = Separators(before=(cls,), after=(sep,))
    else:
        separators = Separators(after=(sep,), block_start=(cls,), block_end=(sep,))
    return pack_documents(dataset, tokenizer, args.block_size, args.text_column, args.isolate_documents, separators)


def _first_position(model) -> int:
    """RoBERTa and its kin count positions from behind the pad token's id on."""
    embeddings = getattr(model.base_model, "embeddings", None)
    padding_idx = getattr(embeddings, "padding_idx", None)
    return 0 if padding_idx is None else padding_idx + 1
