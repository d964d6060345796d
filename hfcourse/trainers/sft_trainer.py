"""Supervised finetuning: instruction tuning on prompts and completions (the course's instruction form)."""

import copy
from dataclasses import dataclass
from itertools import islice

import torch
import trl
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl import is_conversational

from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX
from hfcourse.masking import masked_sum
from hfcourse.models.token_stats import add_token_stats_head
from hfcourse.trainers.checks import ROWS_READ, check_columns, check_row_lengths
from hfcourse.trainers.hardware import HardwareDefaults
from hfcourse.trainers.mixin import TrainerMixin


@dataclass
class SFTConfig(HardwareDefaults, trl.SFTConfig):
    """`trl.SFTConfig` whose precision comes from the hardware."""


class SFTTrainer(TrainerMixin, trl.SFTTrainer):
    """`trl.SFTTrainer` with the loss written out; a drop-in.

        L = -(1/n) Σ_t log π(y_t | x, y_<t)     n: learnt tokens of the whole optimizer step, over all processes

    With the columns `prompt` and `completion`, only the completion and the EOS after it are learnt.

    Beside the loss it changes this in its parent:
    1. Only learnt positions meet the LM head.
    2. A row of which `max_length` leaves nothing to learn is an error; the parent drops such rows without a word.
    3. A tokenizer that ends every text with EOS of its own adds none to the one that is learnt.
    4. Empty datasets, missing columns and tokenizers without EOS are errors, found before the first step.
    The parent's other losses (`dft`, label smoothing, `compute_loss_func`, mixture-of-experts, images, prompt
    learning, sequence parallelism) stay the parent's.
    """

    def __init__(self, model, args=None, *, train_dataset=None, eval_dataset=None, processing_class=None, **kwargs):
        args = args or SFTConfig("SFT")
        for name, dataset in _named(train_dataset, eval_dataset):
            _check_format(dataset, name, args, kwargs.get("formatting_func"))
        if isinstance(processing_class, PreTrainedTokenizerBase):
            first = next(iter(train_dataset))
            # A chat template ends turns itself, and rows of token ids are taken as they are.
            _check_tokenizer(
                processing_class, args, needs_eos=not is_conversational(first) and "input_ids" not in first
            )
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        if not args.packing:  # there positions begin anew with each document
            check_row_lengths(
                self.model.config, args.max_length, train_dataset=self.train_dataset, eval_dataset=self.eval_dataset
            )
        add_token_stats_head(self.model)

    @property
    def _uses_own_loss(self) -> bool:
        parallelism = self.accelerator.parallelism_config
        plain = self.args.loss_type == "nll" and self.label_smoother is None and self.compute_loss_func is None
        plain = plain and not self.aux_loss_enabled and not self._is_vlm and parallelism is None
        peft_config = getattr(self.accelerator.unwrap_model(self.model), "active_peft_config", None)
        return plain and not getattr(peft_config, "is_prompt_learning", False)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs or not self._uses_own_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        stats = model(**inputs, token_stats=True)
        mask = inputs["labels"][:, 1:] != IGNORE_INDEX
        num_items = mask.sum() if num_items_in_batch is None else num_items_in_batch
        loss = masked_sum(-stats["logps"], mask, num_items)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # n counts every process, and DDP averages over them
        self._log_tokens(inputs, stats, mask)
        return loss

    def _log_tokens(self, inputs, stats: dict[str, Tensor], mask: Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        sums = torch.stack([mask.sum(), stats["entropy"].detach().sum(), stats["is_top1"].sum()]).float()
        num_valid, entropy, num_correct = self.accelerator.gather_for_metrics(sums[None]).sum(0).tolist()
        self._metrics[mode]["entropy"].append(entropy / max(num_valid, 1))
        self._metrics[mode]["mean_token_accuracy"].append(num_correct / max(num_valid, 1))
        if mode == "train":
            has_mask = "attention_mask" in inputs  # packed batches have none: every token is real
            num_tokens = (
                inputs["attention_mask"].sum() if has_mask else inputs["position_ids"].new_tensor(mask.numel() + 1)
            )
            self._total_train_tokens += self.accelerator.gather_for_metrics(num_tokens[None]).sum().item()
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        checks_lengths = args.max_length is not None and not packing
        ends_twice = _ends_with_eos(processing_class) and not is_conversational(next(iter(dataset)))
        if checks_lengths or ends_twice:
            # Prepared once without the cut, to see what it takes away; the parent then only has to cut, or to pack.
            uncut = copy.copy(args)
            uncut.max_length, uncut.shuffle_dataset = None, False
            dataset = super()._prepare_dataset(dataset, processing_class, uncut, False, formatting_func, dataset_name)
            dataset = dataset.map(_with_one_eos) if ends_twice else dataset
            formatting_func = None
        if checks_lengths:
            _check_lengths(dataset, dataset_name, args)
        return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)


def _ends_with_eos(tokenizer) -> bool:
    """Whether the tokenizer writes EOS behind every text by itself."""
    is_text = isinstance(tokenizer, PreTrainedTokenizerBase)
    return is_text and tokenizer.eos_token_id is not None and tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id


def _with_one_eos(row: dict) -> dict:
    ends_twice = len(row["input_ids"]) > 1 and row["input_ids"][-1] == row["input_ids"][-2]
    return {name: row[name][:-1] if ends_twice else row[name] for name in ("input_ids", "labels")}


def _named(train_dataset, eval_dataset) -> list[tuple[str, object]]:
    evals = eval_dataset if isinstance(eval_dataset, dict) else {"eval_dataset": eval_dataset}
    return [("train_dataset", train_dataset), *((n, d) for n, d in evals.items() if d is not None)]


def _check_format(dataset, name: str, args: SFTConfig, formatting_func) -> None:
    check_columns(dataset, name)
    first = next(iter(dataset))
    if formatting_func is not None or {"input_ids", "messages", "conversations", args.dataset_text_field} & set(first):
        return
    check_columns(dataset, name, "prompt", "completion")


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, args: SFTConfig, needs_eos: bool) -> None:
    if (tokenizer.eos_token or args.eos_token) is not None:
        return  # the parent pads with EOS where there is no pad token: labels are -100 there, a real EOS is learnt
    if (tokenizer.pad_token or args.pad_token) is None:
        raise InputError(
            "pad_token: the tokenizer has no pad token and no EOS; set tokenizer.pad_token or --pad_token"
        )
    if needs_eos:
        raise InputError("eos_token: the tokenizer has none, so the model cannot learn to stop; set --eos_token")


def _check_lengths(dataset, name: str, args: SFTConfig) -> None:
    """Raises InputError for the first row whose labels are all cut off (of a stream, the first rows are read)."""
    window = slice(-args.max_length, None) if args.truncation_mode == "keep_end" else slice(args.max_length)
    labels = dataset.select_columns(["labels"])
    rows = labels.with_format("numpy") if isinstance(dataset, Dataset) else islice(labels, ROWS_READ)
    for i, row in enumerate(rows):
        if all(label == IGNORE_INDEX for label in row["labels"][window]):
            raise InputError(
                f"{name}_dataset: row {i}: max_length={args.max_length} leaves nothing to learn of its "
                f"{len(row['labels'])} tokens; raise max_length or leave the row out"
            )
