"""What the pretraining trainers share: a loss of their own, evaluation by tokens, masks that follow the rows."""

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from peft import get_peft_model
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from hfcourse.collators.rows import column, matrix
from hfcourse.errors import InputError
from hfcourse.logprobs import IGNORE_INDEX
from hfcourse.losses import language_modeling_loss
from hfcourse.models.document_mask import attention_mask_for, document_mask
from hfcourse.models.selected_positions import head_reads_only
from hfcourse.models.shared_prefix import ROUNDING
from hfcourse.optim import RMSScaledAdamW
from hfcourse.trainers.checks import check_columns
from hfcourse.trainers.hardware import HardwareDefaults
from hfcourse.trainers.mixin import TrainerMixin

# Columns that collators read and models do not.
COLLATOR_COLUMNS = ["labels", "position_ids", "mask_seed", "special_tokens_mask", "word_starts"]


@dataclass
class LanguageModelConfig(HardwareDefaults, TrainingArguments):
    """`transformers.TrainingArguments` whose precision comes from the hardware, and what pretraining adds to it."""

    text_column: str = field(default="text", metadata={"help": "Column that holds the documents."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps; below 1, a share of all."})
    rms_scaled: bool = field(
        default=False,
        metadata={
            "help": "Steps relative to the size of each matrix, as T5 needs it: --learning_rate is relative too, "
            "about 2e-2. AdamW, or with --optim adafactor T5's own optimizer."
        },
    )


class LanguageModelTrainer(TrainerMixin, transformers.Trainer):
    """`transformers.Trainer` that owns its loss. A subclass says what is predicted, in [`logits_and_labels`].

        L = -(1/n) Σ_t log p(y_t)     n: labels that count in the whole optimizer step, over all its processes

    What it changes in its parent:
    1. The loss is [`hfcourse.losses.language_modeling_loss`] in float32, divided by n. The parent leaves it to the
       model, and models that take no `num_items_in_batch` get it multiplied by the accumulation steps.
    2. `eval_loss` is the mean over tokens, not over batches; `eval_perplexity` is its exponential.
    3. A collator that draws masks from the rows (`set_epoch`) draws others in each epoch of training, and the same in
       every evaluation.
    4. Only positions whose label counts meet the LM head, unless an evaluation is asked for logits (`compute_metrics`,
       `trainer.predict`).
    5. `rms_scaled` brings [`hfcourse.optim.RMSScaledAdamW`], or Adafactor with `scale_parameter`, which the parent
       switches off.
    Label smoothing, `compute_loss_func` and routers' auxiliary losses stay the parent's.
    """

    _paper = {}
    loss_is_scaled_for_ga = True

    def __init__(
        self, model, args, *, train_dataset=None, eval_dataset=None, data_collator, peft_config=None, **kwargs
    ):
        if peft_config is not None:
            model = get_peft_model(model, peft_config)
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=with_arrays(train_dataset),
            eval_dataset=with_arrays(eval_dataset),
            **kwargs,
        )
        if args.n_gpu > 1:
            raise InputError("several GPUs need several processes: start with `accelerate launch` or `torchrun`")
        # The parent counts n only for models that take it, and shifts labels as the model would. Not here.
        self.model_accepts_loss_kwargs, self._loss_shifts_labels = True, False
        self._eval_collator = copy.deepcopy(data_collator)
        self._eval_rows: list[tuple[Tensor, Tensor]] = []
        self._hands_out_logits = False
        if hasattr(data_collator, "set_epoch"):
            self.add_callback(_OtherMasksEachEpoch(data_collator))
        # Not asked of a stream's first row: it may stand behind a shuffle buffer, or come from stdin.
        columns = getattr(self.train_dataset, "column_names", None) or ()
        if getattr(args, "isolate_documents", False) or "position_ids" in columns:
            self._try_isolation()

    def logits_and_labels(self, model, inputs) -> tuple[object, Tensor, Tensor]:
        """(the model's outputs, logits, labels): logits (B, T, V) aligned with labels (B, T), or (N, V) of only the N
        labels that count, in row-major order."""
        raise TypeError(f"{type(self).__name__} must say how it predicts")

    def _counted_logits(self, model, inputs, labels: Tensor) -> tuple[object, Tensor, Tensor]:
        """[`logits_and_labels`] for labels (B, T) that say what each position read by the head predicts."""
        if self._hands_out_logits and not self.model.training:
            outputs = model(**inputs)
            return outputs, outputs.logits, labels
        with head_reads_only(self.accelerator.unwrap_model(model), labels != IGNORE_INDEX) as selection:
            outputs = model(**inputs)
        return outputs, selection.rows(outputs.logits), labels

    @property
    def _uses_own_loss(self) -> bool:
        has_router = getattr(self.model.config, "output_router_logits", False)
        return self.label_smoother is None and self.compute_loss_func is None and not has_router

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if not self._uses_own_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs, logits, labels = self.logits_and_labels(model, inputs)
        counted = labels if logits.dim() > 2 else labels[labels != IGNORE_INDEX]
        loss = language_modeling_loss(logits, counted, num_items_in_batch)
        if not self.model.training:
            self._remember_rows(logits, labels)
        loss = self._add_losses(loss, outputs, inputs, num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # n counts every process, and DDP averages over them
        return (loss, outputs) if return_outputs else loss

    def _add_losses(self, loss: Tensor, outputs, inputs, num_items_in_batch) -> Tensor:
        """The loss with whatever a subclass adds to it."""
        return loss

    def _isolated(self, inputs: dict[str, Tensor], causal: bool) -> dict[str, Tensor]:
        """The inputs with a block mask, where `position_ids` say which tokens are one document's."""
        if "position_ids" not in inputs:
            return inputs
        model = self.accelerator.unwrap_model(self.model)
        mask = attention_mask_for(model, document_mask(inputs["position_ids"], causal))
        return {**inputs, "attention_mask": mask}

    @torch.no_grad()
    def _try_isolation(self) -> None:
        """Two documents in one row must be what they are alone.

        Raises:
            InputError: they are not: states are carried on (RWKV), positions counted on (BART), a mask not taken.
        """
        if is_deepspeed_zero3_enabled():  # the weights are elsewhere
            return
        model, was_training, kind = self.model, self.model.training, type(self.model).__name__
        lengths = (5, 7)
        # No padding among them: special tokens come first.
        ids = (
            torch.arange(10, 10 + sum(lengths), device=model.device)[None] % model.config.get_text_config().vocab_size
        )
        positions = torch.cat([torch.arange(n, device=model.device) for n in lengths])[None]
        self._hands_out_logits = True
        model.eval()
        try:
            rows = [{"input_ids": x} for x in ids.split(lengths, dim=1)]
            alone, packed = (
                torch.cat(
                    [self.logits_and_labels(model, {**x, "labels": x["input_ids"]})[0].logits for x in inputs], 1
                )
                for inputs in (rows, [{"input_ids": ids, "position_ids": positions}])
            )
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError) as e:
            raise InputError(f"isolate_documents: {kind} takes no mask of documents ({e}); leave it out") from e
        finally:
            self._hands_out_logits = False
            model.train(was_training)
        if (packed - alone).norm() > ROUNDING.get(model.dtype, 0.05) * alone.norm():
            raise InputError(f"isolate_documents: packed into {kind} they are not what they are alone; leave it out")

    def _remember_rows(self, logits: Tensor, labels: Tensor) -> None:
        """Keep each row's summed loss and its tokens, each (B,), without the rows that fill up the last batch."""
        counts = (labels != IGNORE_INDEX).sum(1)
        rows = list(labels) if logits.dim() > 2 else labels[labels != IGNORE_INDEX].split(counts.tolist())
        logits = list(logits) if logits.dim() > 2 else logits.split(counts.tolist())
        losses = torch.stack([language_modeling_loss(z, y, num_items=1.0) for z, y in zip(logits, rows, strict=True)])
        self._eval_rows.append(self.accelerator.gather_for_metrics((losses, counts, *self._measures(labels))))

    def _measures(self, labels: Tensor) -> tuple[Tensor, ...]:
        """More (B,) figures of each evaluated row, for [`_metrics_of`]."""
        return ()

    def _metrics_of(self, total_loss: float, sums: list[float]) -> dict[str, float]:
        """Metrics from the summed loss and the sums of [`_measures`], under their names without prefix."""
        return {}

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        self._eval_rows.clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._eval_rows:
            losses, counts, *measures = (torch.cat(rows) for rows in zip(*self._eval_rows, strict=True))
            total = losses.double().sum().item()
            loss = total / counts.sum().clamp(min=1).item()
            metrics = {"loss": loss, "perplexity": math.exp(loss)}
            metrics |= self._metrics_of(total, [measure.double().sum().item() for measure in measures])
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        self._hands_out_logits = not prediction_loss_only
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def get_eval_dataloader(self, eval_dataset=None):
        training_collator, self.data_collator = self.data_collator, self._eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += COLLATOR_COLUMNS

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        optimizer, options = transformers.Trainer.get_optimizer_cls_and_kwargs(args, model)
        if not args.rms_scaled:
            return optimizer, options
        if args.optim == "adafactor":
            return optimizer, options | {"scale_parameter": True}
        if not args.optim.startswith("adamw"):
            raise InputError(f"rms_scaled: there is no such '{args.optim.value}'; set --optim adafactor, or leave it")
        return RMSScaledAdamW, {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2)}


class _OtherMasksEachEpoch(TrainerCallback):
    def __init__(self, collator):
        self.collator, self.epoch = collator, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.epoch = int(state.epoch or 0) - 1

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch += 1
        self.collator.set_epoch(self.epoch)


def with_arrays(dataset):
    """The same dataset, whose rows are numpy arrays: no list of Python integers on the way to the collator."""
    return dataset.with_format("numpy") if hasattr(dataset, "with_format") else dataset


def prepared(dataset, name: str, prepare):
    """`dataset` if it has `input_ids`, else what `prepare` makes of its texts; None for None."""
    if dataset is None:
        return None
    check_columns(dataset, name)
    return dataset if "input_ids" in next(iter(dataset)) else prepare(dataset)


def collate_blocks(rows: list[dict]) -> dict[str, Tensor]:
    """Stack blocks of one length: `input_ids`, `labels` and, where the rows have them, `position_ids`, each (B, T).

    The labels are the inputs unless given, except for a document's first token (position 0), which is not learnt.
    """
    columns = {name: column(rows, name) for name in ("input_ids", "labels", "position_ids")}
    columns["labels"] = columns["input_ids"] if columns["labels"] is None else columns["labels"]
    batch = {
        name: torch.from_numpy(matrix(values, name).astype(np.int64))
        for name, values in columns.items()
        if values is not None
    }
    if "position_ids" in batch:
        batch["labels"] = batch["labels"].masked_fill(batch["position_ids"] == 0, IGNORE_INDEX)
    return batch
