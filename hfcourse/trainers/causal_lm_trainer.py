"""Causal language modeling: pretraining, or going on with it, on packed blocks of text."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from datasets import Dataset, IterableDataset
from peft import get_peft_model
from torch import Tensor
from transformers import TrainingArguments

from hfcourse.data.packing import pack_documents
from hfcourse.errors import InputError
from hfcourse.hub.model_card import ModelCardMixin
from hfcourse.logprobs import IGNORE_INDEX
from hfcourse.losses import language_modeling_loss
from hfcourse.models.document_mask import attention_mask_for, document_mask
from hfcourse.trainers.checks import check_columns
from hfcourse.trainers.hardware import HardwareDefaults


@dataclass
class CausalLMConfig(HardwareDefaults, TrainingArguments):
    """`transformers.TrainingArguments` whose precision comes from the hardware, and the length of a block."""

    block_size: int = field(
        default=1024,
        metadata={"help": "Tokens a block: what the model sees at once. Documents are packed end to end into blocks."},
    )
    isolate_documents: bool = field(
        default=False,
        metadata={"help": "A packed document sees itself alone; else attention reaches back into the one before it."},
    )
    text_column: str = field(default="text", metadata={"help": "Column that holds the documents."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps; below 1, a share of all."})


class CausalLMTrainer(ModelCardMixin, transformers.Trainer):
    """`transformers.Trainer` that owns its loss and packs its documents.

        L = -(1/n) Σ_t log p(x_t | x_<t)     n: predicted tokens of the whole optimizer step, over all processes

    What it changes in its parent:
    1. The loss is [`hfcourse.losses.language_modeling_loss`] in float32, divided by n. The parent leaves it to the
       model, and models that take no `num_items_in_batch` get it multiplied by the accumulation steps.
    2. `eval_loss` is the mean over tokens, not over batches; `eval_perplexity` is its exponential.
    3. Datasets of texts are packed into `block_size` tokens; those with `input_ids` are taken as they are.
    4. Where the rows have `position_ids` that start anew with each document (`isolate_documents` makes them),
       documents do not see each other, and the first token of each is not learnt: nothing foretells it.
    Label smoothing, `compute_loss_func` and routers' auxiliary losses stay the parent's.

    Args:
        train_dataset, eval_dataset: with a column of texts, or with `input_ids` of one length (and `labels`, if some
            tokens are not to be learnt: -100).
        processing_class: tokenizer, saved with the model; its EOS parts the documents.
        peft_config: trains an adapter instead of the model.
    """

    _tag_names = ["causal-lm"]
    _name = "Causal language modeling"
    _paper = {}
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model,
        args=None,
        *,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        peft_config=None,
        **kwargs,
    ):
        args = args or CausalLMConfig("CausalLM")
        check_columns(train_dataset, "train_dataset")
        if peft_config is not None:
            model = get_peft_model(model, peft_config)
        super().__init__(
            model,
            args,
            data_collator=kwargs.pop("data_collator", collate_blocks),
            train_dataset=_packed(train_dataset, processing_class, args),
            eval_dataset=_packed(eval_dataset, processing_class, args),
            processing_class=processing_class,
            **kwargs,
        )
        if args.n_gpu > 1:
            raise InputError("several GPUs need several processes: start with `accelerate launch` or `torchrun`")
        # The parent counts n only for models that take it, and rightly only for those it knows to shift their labels.
        self.model_accepts_loss_kwargs = self._loss_shifts_labels = True
        self._eval_rows: list[tuple[Tensor, Tensor]] = []

    @property
    def _uses_own_loss(self) -> bool:
        has_router = getattr(self.model.config, "output_router_logits", False)
        return self.label_smoother is None and self.compute_loss_func is None and not has_router

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self._uses_own_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**self._isolated({n: x for n, x in inputs.items() if n != "labels"}), use_cache=False)
        logits, labels = outputs.logits[:, :-1], inputs["labels"][:, 1:]
        loss = language_modeling_loss(logits, labels, num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # n counts every process, and DDP averages over them
        if not self.model.training:
            self._remember_rows(logits, labels)
        return (loss, outputs) if return_outputs else loss

    def _isolated(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if "position_ids" not in inputs or "attention_mask" in inputs:
            return inputs
        model = self.accelerator.unwrap_model(self.model)
        return {**inputs, "attention_mask": attention_mask_for(model, document_mask(inputs["position_ids"]))}

    def _remember_rows(self, logits: Tensor, labels: Tensor) -> None:
        """Keep each row's summed loss and its tokens, each (B,), without the rows that fill up the last batch."""
        losses = torch.stack(
            [language_modeling_loss(z, y, num_items=1.0) for z, y in zip(logits, labels, strict=True)]
        )
        counts = (labels != IGNORE_INDEX).sum(1)
        self._eval_rows.append(self.accelerator.gather_for_metrics((losses, counts)))

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        self._eval_rows.clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._eval_rows:
            losses, counts = (torch.cat(rows) for rows in zip(*self._eval_rows, strict=True))
            loss = (losses.double().sum() / counts.sum().clamp(min=1)).item()
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            output.metrics[f"{metric_key_prefix}_perplexity"] = math.exp(loss)
        return output


def collate_blocks(rows: list[dict]) -> dict[str, Tensor]:
    """Stack blocks of one length: `input_ids`, `labels` and, where the rows have them, `position_ids`, each (B, T).

    The labels are the inputs unless given, except for a document's first token (position 0), which is not learnt.
    """
    lengths = {len(row["input_ids"]) for row in rows}
    if len(lengths) > 1:
        raise InputError(f"input_ids: blocks of {sorted(lengths)} tokens in one batch; pack them to one length")
    batch = {"input_ids": torch.tensor(np.array([row["input_ids"] for row in rows]), dtype=torch.long)}
    labels = torch.tensor(np.array([row.get("labels", row["input_ids"]) for row in rows]), dtype=torch.long)
    if "position_ids" in rows[0]:
        batch["position_ids"] = torch.tensor(np.array([row["position_ids"] for row in rows]), dtype=torch.long)
        labels = labels.masked_fill(batch["position_ids"] == 0, IGNORE_INDEX)
    return {**batch, "labels": labels}


def _packed(dataset: Dataset | IterableDataset | None, tokenizer, args: CausalLMConfig):
    if dataset is None or "input_ids" in next(iter(dataset)):
        return dataset
    if tokenizer is None:
        raise InputError("processing_class: a tokenizer is needed to pack texts")
    return pack_documents(dataset, tokenizer, args.block_size, args.text_column, args.isolate_documents)
